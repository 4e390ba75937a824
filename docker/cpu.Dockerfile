# The service and the command line on a plain CPU, x86-64 or aarch64.
#   docker build -f docker/cpu.Dockerfile -t edgeinfer:cpu .
#   docker run --rm --init --read-only --tmpfs /tmp -v edgeinfer:/var/cache/edgeinfer \
#       -v "$PWD/engines:/models:ro" -p 8000:8000 edgeinfer:cpu serve /models/yolov5n --host 0.0.0.0
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY edgeinfer edgeinfer
COPY export export
RUN python -m venv /opt/edgeinfer && /opt/edgeinfer/bin/pip install --no-cache-dir ".[cpu,serve]" \
    && /opt/edgeinfer/bin/pip uninstall -y pip \
    && find /opt/edgeinfer -type f \( -path '*/tests/*' ! -name '_*' -o -name '*.a' \
       -o -regex '.*/onnxruntime/\(quantization\|tools\|transformers\)/.*' \) -delete

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin edgeinfer \
    && install -d -o edgeinfer -g edgeinfer /var/cache/edgeinfer
COPY --from=build /opt/edgeinfer /opt/edgeinfer
COPY docker/health.py /opt/edgeinfer/health.py
# the base leaves Python's own modules uncompiled: those of the service are compiled here, not at every start
RUN ["/opt/edgeinfer/bin/python", "-c", "import edgeinfer.serve.running, edgeinfer.serve.rpc, cv2, onnxruntime"]
ENV PATH="/opt/edgeinfer/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/var/cache/edgeinfer
VOLUME /var/cache/edgeinfer
USER 10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-IS", "/opt/edgeinfer/health.py"]
ENTRYPOINT ["edgeinfer"]
CMD ["--help"]

# The service and the command line on a plain CPU, x86-64 or aarch64.
#   docker build -f docker/cpu.Dockerfile -t edgeinfer:cpu .
#   docker run --rm --read-only --tmpfs /tmp -v "$PWD/engines:/models:ro" -p 8000:8000 edgeinfer:cpu \
#       serve /models/yolov5n --host 0.0.0.0
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY edgeinfer edgeinfer
COPY export export
RUN python -m venv /opt/edgeinfer && /opt/edgeinfer/bin/pip install --no-cache-dir ".[cpu,serve]"

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin edgeinfer
COPY --from=build /opt/edgeinfer /opt/edgeinfer
COPY docker/health.py /opt/edgeinfer/health.py
ENV PATH="/opt/edgeinfer/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp
USER 10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "/opt/edgeinfer/health.py"]
ENTRYPOINT ["edgeinfer"]
CMD ["--help"]

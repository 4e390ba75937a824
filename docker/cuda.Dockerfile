# The service and the command line on a desktop or server NVIDIA GPU: TensorRT, and ONNX Runtime's CUDA provider.
#   docker build -f docker/cuda.Dockerfile -t edgeinfer:cuda .
#   docker run --rm --init --gpus all --read-only --tmpfs /tmp -v edgeinfer:/var/cache/edgeinfer \
#       -v "$PWD/engines:/models:ro" -p 8000:8000 edgeinfer:cuda serve /models/yolov5n --host 0.0.0.0
FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS build
# the interpreter of the release, whatever its patch level
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY edgeinfer edgeinfer
COPY export export
RUN python3 -m venv /opt/edgeinfer \
    && /opt/edgeinfer/bin/pip install --no-cache-dir ".[gpu,tensorrt,serve]" "onnxruntime-gpu[cuda,cudnn]" \
    && /opt/edgeinfer/bin/pip uninstall -y pip \
    && find /opt/edgeinfer -type f \( -path '*/tests/*' ! -name '_*' -o -name '*.a' \
       -o -regex '.*/onnxruntime/\(quantization\|tools\|transformers\)/.*' \) -delete

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin edgeinfer \
    && install -d -o edgeinfer -g edgeinfer /var/cache/edgeinfer
COPY --from=build /opt/edgeinfer /opt/edgeinfer
COPY docker/health.py /opt/edgeinfer/health.py
ENV PATH="/opt/edgeinfer/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/var/cache/edgeinfer
VOLUME /var/cache/edgeinfer
USER 10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python3", "-IS", "/opt/edgeinfer/health.py"]
ENTRYPOINT ["edgeinfer"]
CMD ["--help"]

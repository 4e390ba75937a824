# The service and the command line on a Jetson, with JetPack's own TensorRT, CUDA and OpenCV (which has GStreamer).
# BASE is NVIDIA's image for the JetPack on the device: this one for JetPack 6, the one of r38 for JetPack 7.
#   docker build -f docker/jetson.Dockerfile --build-arg BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0 -t edgeinfer:jetson .
#   docker run --rm --init --runtime nvidia --read-only --tmpfs /tmp -v edgeinfer:/var/cache/edgeinfer \
#       -v "$PWD/engines:/models:ro" -p 8000:8000 edgeinfer:jetson serve /models/yolov5n --host 0.0.0.0
ARG BASE
# hadolint ignore=DL3006
FROM ${BASE} AS build
# the interpreter of the release, whatever its patch level
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY edgeinfer edgeinfer
COPY export export
RUN python3 -m venv --system-site-packages /opt/edgeinfer \
    && /opt/edgeinfer/bin/pip install --no-cache-dir ".[jetson,serve]" \
    && /opt/edgeinfer/bin/pip uninstall -y pip setuptools \
    && find /opt/edgeinfer -type f \( -path '*/tests/*' ! -name '_*' -o -name '*.a' \) -delete

# hadolint ignore=DL3006
FROM ${BASE}
# the releases that belong to the JetPack, whatever they are; libopencv-python is NVIDIA's, python3-opencv Ubuntu's
# hadolint ignore=DL3008
RUN apt-get update \
    && { apt-cache show libopencv-python > /dev/null 2>&1 && opencv=libopencv-python || opencv=python3-opencv; } \
    && apt-get install -y --no-install-recommends python3 python3-libnvinfer "$opencv" \
       python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --groups video --no-create-home --shell /usr/sbin/nologin edgeinfer \
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

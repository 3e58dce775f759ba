# syntax=docker/dockerfile:1
# docker build -t mlbox . && docker run -p 8265:8265 -v mlbox:/data mlbox
# With GPUs: docker build --build-arg EXTRA=server-gpu -t mlbox . && docker run --gpus all ...
# Without CUDA, some gigabytes smaller: docker build --build-arg UV_TORCH_BACKEND=cpu -t mlbox .
# Colleagues reach it under the machine's name: docker run --env MLBOX_ALLOWED_HOST=box ...

# -- build: everything is installed into one environment, which alone goes on ------------------------------------------
FROM python:3.11-slim-bookworm AS build
ARG EXTRA=server
ARG UV_TORCH_BACKEND
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/mlbox
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY mlbox /src/mlbox
RUN /opt/mlbox/bin/pip install --constraint /src/constraints.txt uv \
 && /opt/mlbox/bin/uv pip install --no-cache --python /opt/mlbox/bin/python --constraint /src/constraints.txt "/src[${EXTRA}]"

# -- run ---------------------------------------------------------------------------------------------------------------
FROM python:3.11-slim-bookworm
# tini is process 1: it reaps what jobs leave behind and hands signals on. git names the commit of code that jobs run.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini git \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 mlbox \
 && useradd --uid 10001 --gid mlbox --create-home mlbox \
 && install -d -o mlbox -g mlbox -m 0700 /data
COPY --from=build /opt/mlbox /opt/mlbox
ENV PATH=/opt/mlbox/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MLBOX_DATA_DIR=/data \
    MLBOX_HOST=0.0.0.0 \
    MLBOX_PORT=8265
USER mlbox
WORKDIR /home/mlbox
VOLUME /data
EXPOSE 8265
# The server ends its streams and requests in flight within 3 s of SIGTERM; what runs in the container ends with it.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['MLBOX_PORT']}/readyz\", timeout=4)"]
ENTRYPOINT ["tini", "--", "mlbox"]
CMD ["serve"]

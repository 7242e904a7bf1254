# An inference worker: its own small environment, and vLLM's CUDA build in another, as on a single machine.
# The CUDA libraries come with torch; the driver comes from the host through the NVIDIA container toolkit.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS engine
ARG VLLM_VERSION=0.32.0
RUN python -m venv /opt/engine \
    && /opt/engine/bin/pip install --no-cache-dir "vllm==${VLLM_VERSION}"

FROM ${PYTHON_IMAGE} AS worker
WORKDIR /src
RUN python -m venv /opt/worker
COPY infra/local/pins/platform.txt constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY platform platform
COPY inference_worker inference_worker
# Only what the worker imports: no Django, no database driver, nothing of the control plane.
RUN /opt/worker/bin/pip install --no-cache-dir --constraint constraints.txt \
        celery==5.7.0 cryptography==50.0.2 greenlet==3.5.6 httptools==0.9.0 kombu==5.7.0 msgspec==0.22.0 \
        redis==8.1.0 uvloop==0.23.0 \
    && cp -r inference_worker /opt/worker/lib/python3.11/site-packages/

FROM ${PYTHON_IMAGE}
# Triton compiles its kernels when the engine first needs them. The compiler gets Debian's security updates:
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10002 worker \
    && useradd --uid 10002 --gid 10002 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin worker \
    && install -d -o 10002 -g 10002 -m 0755 /models \
    && install -d -o 10002 -g 10002 -m 0700 /state
COPY --from=engine /opt/engine /opt/engine
COPY --from=worker /opt/worker /opt/worker
WORKDIR /app
COPY infra/containers/health.py ./
ENV PATH=/opt/worker/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KASBAH_SECRETS_DIR=/run/secrets \
    HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10002:10002
CMD ["python", "-m", "inference_worker"]

# The control plane: gateway, management API, housekeeping and beat are the same image with different commands.
# Images are pinned by version. Pin them by digest in your own registry: one cannot be looked up without a network.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv /opt/kasbah
# What the packages bring with them is pinned too, so that what runs is what was tested.
COPY infra/local/pins/platform.txt constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY platform platform
COPY inference_worker inference_worker
RUN /opt/kasbah/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 kasbah \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin kasbah \
    && install -d -o 10001 -g 10001 -m 0755 /models \
    && install -d -o 10001 -g 10001 -m 0700 /audit
COPY --from=build /opt/kasbah /opt/kasbah
WORKDIR /app
COPY manage.py infra/containers/health.py ./
ENV PATH=/opt/kasbah/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=kasbah.config.settings \
    KASBAH_SECRETS_DIR=/run/secrets
USER 10001:10001
EXPOSE 8080
CMD ["python", "manage.py", "serve"]

# syntax=docker/dockerfile:1
# Two images from one tree: `docker build --target registry .` has no torch, `--target trainer` has no web stack.

ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY enforcer enforcer
COPY registry registry
COPY trainer trainer
COPY policies policies
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:${PYTHON} AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="tagwarden" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home tagwarden

FROM base AS registry
COPY requirements/registry.txt /tmp/requirements.txt
RUN pip install --require-hashes --no-deps -r /tmp/requirements.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-deps /tmp/wheels/*.whl \
 && install --directory --owner=tagwarden --mode=0700 /var/lib/tagwarden
USER 10001
ENV TAGWARDEN_STATE_DIR=/var/lib/tagwarden TAGWARDEN_HOST=0.0.0.0 TAGWARDEN_PORT=8710
VOLUME /var/lib/tagwarden
EXPOSE 8710
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8710/readyz', timeout=2)"]
ENTRYPOINT ["tagwarden"]
CMD ["serve"]

FROM base AS trainer
# torch comes first and by version only, so that the index of the build decides between CPU and CUDA.
COPY requirements/torch.txt requirements/trainer.txt /tmp/
RUN pip install --require-hashes --no-deps -r /tmp/trainer.txt \
 && pip install -r /tmp/torch.txt
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-deps /tmp/wheels/*.whl
USER 10001
WORKDIR /home/tagwarden
ENTRYPOINT ["swift-submit"]

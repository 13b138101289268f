# Jupyter and the gateway: one image, so that a notebook finds the same packages in both. Context: what
# `make compose-context` makes.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
LABEL org.opencontainers.image.title="mcp-server-jupyter notebooks" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY requirements.txt /tmp/
RUN pip install --no-cache-dir --root-user-action=ignore --requirement /tmp/requirements.txt
COPY *.whl /tmp/
RUN pip install --no-cache-dir --root-user-action=ignore /tmp/*.whl && rm /tmp/*
# Whatever NB_UID and NB_GID say may write: a new volume takes its mode from the folder it is mounted on.
RUN useradd --uid 1000 --gid 100 --home-dir /home/jovyan --create-home jovyan \
    && mkdir /home/jovyan/work /home/jovyan/notebooks \
    && chmod 777 /home/jovyan /home/jovyan/work /home/jovyan/notebooks
ENV HOME=/home/jovyan \
    PYTHONUNBUFFERED=1
WORKDIR /home/jovyan
USER 1000:100
EXPOSE 8888 5005

# A Python kernel with pandas and matplotlib. The server brings what it needs of its own into the pod: any image with
# python3, pyzmq and a kernel is a kernel image. Context: what `make image-context` makes.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
LABEL org.opencontainers.image.title="mcp-server-jupyter kernel" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY kernel.txt /tmp/
RUN pip install --no-cache-dir --root-user-action=ignore --constraint /tmp/kernel.txt ipykernel matplotlib pandas \
    && rm /tmp/kernel.txt
ENV HOME=/tmp
USER 1000:1000

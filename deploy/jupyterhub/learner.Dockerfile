# A learner's server: JupyterLab with live documents, our extension, and SQL. Context: this folder, with the wheel in it.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
LABEL org.opencontainers.image.title="mcp-server-jupyter-learner" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY learner.txt *.whl /tmp/
# The wheel enables the extension by itself.
RUN set -- /tmp/mcp_server_jupyter-*.whl && pip install --no-cache-dir --requirement /tmp/learner.txt "$1[jupyter]" && rm /tmp/*
RUN useradd --create-home --uid 1000 --no-log-init jovyan
USER 1000
WORKDIR /home/jovyan
# zero-to-jupyterhub gives each learner a volume here.
CMD ["jupyterhub-singleuser", "--ip=0.0.0.0"]

# The server with its kernels in pods. Context: what `make image-context` makes.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN python -m venv --without-pip /opt/mcp-server-jupyter
COPY server.txt /tmp/
RUN pip --python /opt/mcp-server-jupyter/bin/python install --no-cache-dir --require-hashes --requirement /tmp/server.txt
COPY *.whl /tmp/
RUN pip --python /opt/mcp-server-jupyter/bin/python install --no-cache-dir --no-deps /tmp/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="mcp-server-jupyter" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY --from=build /opt/mcp-server-jupyter /opt/mcp-server-jupyter
ENV PATH=/opt/mcp-server-jupyter/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 10001:10001
EXPOSE 4040
ENTRYPOINT ["mcp-server-jupyter"]
CMD ["serve", "--host=0.0.0.0"]

"""The service of a JupyterHub: MCP for each user's own server."""

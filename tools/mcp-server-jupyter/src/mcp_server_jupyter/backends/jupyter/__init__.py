"""Kernels and notebooks of a Jupyter server, over its REST API and WebSockets. Needs the extra `jupyter`."""

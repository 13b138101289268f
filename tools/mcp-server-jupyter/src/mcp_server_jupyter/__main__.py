"""`python -m mcp_server_jupyter`."""

from .cli import main

main()

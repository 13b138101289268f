"""`python -m mcp_server_jupyter` is the command."""

from .cli import main

main()

"""`python -m mcp_server_jupyter.cli.detached`: a root's server where it cannot be forked off its first client.

Its settings are in its environment, for anybody can see a process's arguments.
"""

from __future__ import annotations

from ..settings import Settings
from . import servers

if __name__ == "__main__":
    servers.serve_if_free(Settings.load())

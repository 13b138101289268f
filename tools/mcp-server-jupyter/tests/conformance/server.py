"""The server under test: `python -m conformance.server` prints its address and serves until its input ends."""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import mcp.types as t
import uvicorn

from conformance import fixtures
from mcp_server_jupyter.doors.http.app import create_http
from mcp_server_jupyter.doors.mcp.server import create_mcp
from mcp_server_jupyter.places import open_places
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings


async def serve(folder: Path) -> None:
    options = {"root": folder, "state_dir": folder / "state", "no_auth": True, "rate_limit": 0}
    async with open_services(Settings.load(options, {})) as services, open_places(services) as places:
        server = create_mcp(places)
        fixtures.register(server)
        # The suite wants a deprecated feature that our server leaves out.
        server._lowlevel_server.add_request_handler("logging/setLevel", t.SetLevelRequestParams, _ignore)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            app = create_http(places, server, None, port=port)
            http = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(http.serve, [listener])
                sys.stdout.write(f"http://127.0.0.1:{port}/mcp\n")
                sys.stdout.flush()
                await anyio.to_thread.run_sync(sys.stdin.read)
                http.should_exit = True


async def _ignore(ctx: Any, params: Any) -> t.EmptyResult:
    return t.EmptyResult()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(serve, Path(folder))

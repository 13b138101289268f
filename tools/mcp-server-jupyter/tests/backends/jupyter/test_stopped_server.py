"""What a JupyterHub answers for a server that it has stopped; `make e2e-hub` has a real one say it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mcp_server_jupyter.backends.jupyter.client import Client
from mcp_server_jupyter.errors import ServerNotRunning, Unavailable

pytestmark = pytest.mark.anyio


@contextmanager
def answering(status: int, **headers: str) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/user/ada/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "location"), [(302, "/hub/user/ada/api/kernels"), (424, "")])
async def test_a_server_that_its_hub_has_stopped_is_told_from_one_that_is_away(status: int, location: str) -> None:
    with answering(status, **({"Location": location} if location else {})) as url:
        async with Client(url, "token") as client:
            with pytest.raises(ServerNotRunning, match="start_server"):
                await client.get("api/kernels")


@pytest.mark.parametrize("location", ["/login?next=%2Fhub%2Fuser%2Fada", "https://sso.example.org/"])
async def test_a_log_in_is_no_stopped_server(location: str) -> None:
    with answering(302, Location=location) as url:
        async with Client(url, "token") as client:
            with pytest.raises(Unavailable, match="302") as refused:
                await client.get("api/kernels")
            assert not isinstance(refused.value, ServerNotRunning)

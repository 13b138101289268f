"""The server under test: `python -m conformance.server` prints its address and serves until its input ends."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

import mcp.types as t
import uvicorn
from conformance import fixtures
from mcp.server import MCPServer


def main() -> None:
    server = MCPServer("conformance", version="0", log_level="ERROR")
    fixtures.register(server)
    low = server._lowlevel_server

    async def empty(ctx: Any, params: Any) -> t.EmptyResult:
        return t.EmptyResult()

    low.add_request_handler("resources/subscribe", t.SubscribeRequestParams, empty)
    low.add_request_handler("resources/unsubscribe", t.UnsubscribeRequestParams, empty)
    low.add_request_handler("logging/setLevel", t.SetLevelRequestParams, empty)

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> t.Completion:
        return t.Completion(values=[], total=0, has_more=False)

    app = server.streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        http = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

        def stop_at_end_of_input() -> None:
            sys.stdin.read()
            http.should_exit = True

        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
        http.run(sockets=[listener])


if __name__ == "__main__":
    main()

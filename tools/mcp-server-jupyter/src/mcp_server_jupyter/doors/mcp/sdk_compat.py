"""The few touches of the MCP SDK that are not its public interface; `tests/test_sdk_compat.py` has a test for each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ...operations import Caller
from ..protocol import SESSION_HEADER

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from mcp.server.connection import Connection
    from mcp.server.lowlevel import Server


@contextmanager
def quick_import() -> Iterator[None]:
    """Import the SDK in about two thirds of the time.

    Building its 400 models allocates so much that the collector runs again and again over objects that live for
    ever; and most of the models are never used by one process, so they are built at first use (pydantic,
    `ConfigDict(defer_build=True)`).
    """
    from pydantic import BaseModel  # noqa: PLC0415 - half of the cost that this function is about

    enabled = gc.isenabled()
    gc.disable()
    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]
        gc.freeze()
        if enabled:
            gc.enable()


def lowlevel(mcp: MCPServer) -> Server[Any]:
    """The protocol server below `MCPServer`; it has no public accessor in 2.3."""
    return mcp._lowlevel_server


def discover_result(mcp: MCPServer) -> dict[str, Any]:
    """What `server/discover` answers (MCP 2026-07-28, "Discovery"), without serving a request."""
    import mcp.types as types  # noqa: PLC0415 - see `quick_import`
    from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS  # noqa: PLC0415

    server = lowlevel(mcp)
    result = types.DiscoverResult(
        supported_versions=list(MODERN_PROTOCOL_VERSIONS),
        capabilities=server.get_capabilities(protocol_version=LATEST_MODERN_VERSION),
        instructions=server.instructions,
    ).model_dump(by_alias=True, mode="json", exclude_none=True)
    result["_meta"] = {types.SERVER_INFO_META_KEY: server.server_info_stamp}
    return result


def caller_of(request: Any) -> Caller:
    """Who calls: the name a client gave itself, with the id of its connection or session where that lasts.

    A connection of our own carries its `Caller`, whose author is the part after the name.
    """
    name = "agent"
    if request is not None and request.session.client_params is not None:
        name = str(request.session.client_params.client_info.name) or name
    carried = None if request is None else request.request
    if isinstance(carried, Caller):
        return replace(carried, author=name + carried.author, is_agent=True)
    session = None if carried is None else carried.headers.get(SESSION_HEADER)
    author = f"{name}#{blake2b(session.encode(), digest_size=3).hexdigest()}" if session else name
    return Caller(author, is_agent=True)


def caller_cancelled(request: Any) -> bool:
    """Whether a call that is being cancelled was cancelled by its caller, not by the end of the connection.

    The handshake eras send `notifications/cancelled`. On HTTP, 2026-07-28 has no such message: closing the response
    stream is the cancellation ("Cancellation", streamable HTTP), unless it is the stopping server that closes it.
    """
    if request is None:
        return False
    asked = getattr(request.session._request_outbound, "cancel_requested", None)
    if asked is not None and asked.is_set():
        return True
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: PLC0415 - see `quick_import`

    if request.request is None or isinstance(request.request, Caller):
        return False
    if request.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    return not getattr(request.request.app.state, "stopping", False)


def connection_of(request: Any) -> Connection:
    """The connection a request came on. A session object lasts for one request; what it is a view of lasts longer."""
    connection: Connection = request.session._connection
    return connection

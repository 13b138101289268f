"""Subscribers of notebooks, in both eras: each is told once of each change, and forgotten with its connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import mcp.types as T
from anyio.abc import TaskGroup
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.connection import Connection
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent

from ...errors import JupyterMcpError
from ...events import Event, Events
from ...operations.uris import NOTEBOOK, NotebookHandle, notebook_uri, parse_handle
from ...places import Here
from .sdk_compat import connection_of, lowlevel

CHANGED = "notebook.changed"
MAX_URIS = 10_000
_STATE = "mcp_server_jupyter.subscriber"


class ChangeBus(InMemorySubscriptionBus):
    """`subscriptions/listen` (2026-07-28): a stream that is open hears the events themselves.

    A client may have spelled a path as it is or as a URI has it; each stream passes on what it was asked for.
    """

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        def hear(event: Event) -> None:
            if event.kind == CHANGED:
                path = str(event.data["notebook"])
                for uri in {notebook_uri(path), NOTEBOOK + path}:
                    listener(ResourceUpdated(uri=uri))

        published = super().subscribe(listener)
        heard = self._events.listen(hear)

        def stop() -> None:
            heard()
            published()

        return stop


class Subscriber:
    """One connection's `resources/subscribe`. A slow one is told once of what changed many times meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._uris: dict[str, set[str]] = {}
        self._due: dict[str, None] = {}
        self._wake = anyio.Event()

    def add(self, path: str, uri: str) -> None:
        if sum(map(len, self._uris.values())) >= MAX_URIS:
            raise MCPError(code=T.INVALID_REQUEST, message=f"A client may subscribe to {MAX_URIS} resources.")
        self._uris.setdefault(path, set()).add(uri)

    def discard(self, path: str, uri: str) -> None:
        self._uris.get(path, set()).discard(uri)
        self._due.pop(uri, None)
        if not self._uris.get(path):
            self._uris.pop(path, None)

    def hear(self, event: Event) -> None:
        if event.kind == CHANGED and (uris := self._uris.get(event.data["notebook"])):
            self._due.update(dict.fromkeys(uris))
            self._wake.set()

    async def tell(self) -> None:
        """Send what is due until cancelled."""
        while True:
            while self._due:
                uri = next(iter(self._due))
                del self._due[uri]
                await self._connection.send_resource_updated(uri)
            self._wake = anyio.Event()
            await self._wake.wait()


class Subscribers:
    """`resources/subscribe` of the handshake eras, which `MCPServer` leaves to the protocol server below it.

    `lifespan_context["tasks"]` is the task group of the transport: no subscriber outlives it.
    """

    def __init__(self, mcp: MCPServer[Any], places: Here) -> None:
        self._places = places
        server = lowlevel(mcp)
        server.add_request_handler("resources/subscribe", T.SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", T.UnsubscribeRequestParams, self._unsubscribe)

    async def _subscribe(self, ctx: Any, params: T.SubscribeRequestParams) -> T.EmptyResult:
        connection = connection_of(ctx)
        path = await self._path(params.uri)
        if not connection.has_standalone_channel:
            raise MCPError(
                code=T.INVALID_REQUEST, message="Nobody can be told without a session: call initialize first."
            )
        if path is not None:
            self._of(connection, ctx.lifespan_context["tasks"]).add(path, params.uri)
        return T.EmptyResult()

    async def _unsubscribe(self, ctx: Any, params: T.UnsubscribeRequestParams) -> T.EmptyResult:
        subscriber = connection_of(ctx).state.get(_STATE)
        path = await self._path(params.uri)
        if subscriber is not None and path is not None:
            subscriber.discard(path, params.uri)
        return T.EmptyResult()

    def _of(self, connection: Connection, tasks: TaskGroup) -> Subscriber:
        """The connection's subscriber, made at its first subscription and gone with the connection."""
        subscriber: Subscriber | None = connection.state.get(_STATE)
        if subscriber is None:
            subscriber = connection.state[_STATE] = Subscriber(connection)
            scope = anyio.CancelScope()
            connection.exit_stack.callback(self._places.events.listen(subscriber.hear))
            connection.exit_stack.callback(scope.cancel)
            tasks.start_soon(_within, scope, subscriber)
        return subscriber

    async def _path(self, uri: str) -> str | None:
        """The notebook a URI names, None for a resource that never changes.

        Raises:
            MCPError: it names none there could be.
        """
        try:
            handle = parse_handle(uri)
            if not isinstance(handle, NotebookHandle):
                return None
            async with self._places.using() as services:
                return services.contents.resolve(handle.path)
        except JupyterMcpError as error:
            raise MCPError(code=T.INVALID_PARAMS, message=str(error)) from error


async def _within(scope: anyio.CancelScope, subscriber: Subscriber) -> None:
    with scope:
        await subscriber.tell()

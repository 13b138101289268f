"""The channels of a kernel that runs below this very process: straight to its sockets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from ....errors import JupyterMcpError, NotFound, Unavailable
from ....ports import Channel
from ...zmq.wire import Wire
from ..socket import Listener
from .refusals import plain_refusals

if TYPE_CHECKING:
    import zmq

logger = logging.getLogger(__name__)

# Nobody tells that a kernel was shut down, or has other ports since it was started anew.
_LOOK_SECONDS = 0.5
# A kernel that is busy, and answers on no channel meanwhile, is met unheard.
_GREET_SECONDS = 10.0
_AGAIN_SECONDS = 2.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 1.0


class _Relay(Wire):
    """A wire that hands verified messages on, as they came."""

    def __init__(self, info: Mapping[str, Any], identity: str, listener: Listener) -> None:
        super().__init__(info, identity=identity)
        self._listener = listener
        self._is_greeting = True

    def relay(self, channel: Channel, frames: list[bytes]) -> None:
        """Send a message, from its header on."""
        self._transmit(channel, self.codec.sealed(frames), None)

    async def subscribe(self) -> None:
        """Return once iopub is known to be heard, or after a while."""
        pause = _SHORTEST_PAUSE
        with anyio.move_on_after(_GREET_SECONDS):
            # Most say so themselves, and some cannot be asked while they start.
            with anyio.move_on_after(_SHORTEST_PAUSE):
                await self._subscribed.wait()
            while not self._subscribed.is_set():
                # Whoever answers on control while a cell runs tells of it on iopub; others do between cells.
                async with aclosing(self.request("kernel_info_request", {}, channel="control")):
                    with anyio.move_on_after(pause):
                        await self._subscribed.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._is_greeting = False

    def feed(self, channel: Channel, frames: list[bytes]) -> None:
        """See `Dispatch.feed`."""
        whole = self.codec.opened(frames)
        if whole is None:
            self.dropped += 1
            return
        if self._is_greeting:
            super().feed(channel, frames)
        self._listener.received(channel, whole)

    def feed_aside(self, channel: Channel, frames: list[bytes], then: Callable[[], None]) -> None:
        """See `Dispatch.feed_aside`. Nothing is unpacked here."""
        self.feed(channel, frames)
        self.loop.call_soon(then)


class KernelChannels:
    """See `kernels_api.Channels`.

    Args:
        managers: Jupyter's manager of kernels.
        context: of the sockets.
    """

    def __init__(
        self, managers: Any, context: zmq.Context[Any], kernel_id: str, identity: str, listener: Listener
    ) -> None:
        self.unreachable_since: float | None = None
        self.used_at = time.monotonic()
        self._managers = managers
        self._context = context
        self.kernel_id = kernel_id
        self._identity = identity
        self._listener = listener
        self._outgoing: deque[tuple[Channel, list[bytes]]] = deque()
        self._relay: _Relay | None = None
        self._is_resting = self._is_running = False
        self._wanted = asyncio.Event()
        self._again = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._relay is not None

    def send(self, channel: Channel, frames: list[bytes]) -> None:
        """See `kernels_api.Channels.send`."""
        self.used_at = time.monotonic()
        if self._relay is not None:
            self._relay.relay(channel, frames)
        else:
            self._outgoing.append((channel, frames))
            self.wake()

    def rest(self) -> None:
        """See `kernels_api.Channels.rest`."""
        self._is_resting = True
        self._wanted.clear()
        self._again.set()

    def wake(self) -> None:
        """See `kernels_api.Channels.wake`."""
        self._is_resting = False
        self._wanted.set()

    def reset(self) -> None:
        """See `kernels_api.Channels.reset`."""
        self._again.set()

    async def run(self) -> None:
        """See `kernels_api.Channels.run`."""
        try:
            with self._following_restarts():
                while True:
                    try:
                        await self._once()
                    except Unavailable as error:
                        if self.unreachable_since is None:
                            self.unreachable_since = time.time()
                            logger.warning("kernel %s cannot be reached: %s", self.kernel_id, error)
                        await asyncio.sleep(_AGAIN_SECONDS)
                    if self._is_resting:
                        await self._wanted.wait()
        except NotFound:
            self._listener.gone("was shut down at Jupyter")

    async def _once(self) -> None:
        """Be connected until that is to end.

        Raises:
            NotFound: the kernel is gone.
            Unavailable: there is no descriptor left, or Jupyter fails.
        """
        info = self._info()
        while not info.get("shell_port"):
            # It is being started.
            await asyncio.sleep(_LOOK_SECONDS)
            info = self._info()
        self._again.clear()
        relay = _Relay(info, self._identity, self._listener)
        relay.open(self._context)
        try:
            await relay.subscribe()
            self._relay, self.unreachable_since = relay, None
            self._tell("notify_connect")
            try:
                self._listener.opened()
                while self._outgoing:
                    relay.relay(*self._outgoing.popleft())
                await self._changed(info)
            finally:
                self._relay = None
                self._tell("notify_disconnect")
        finally:
            relay.close()
            self._listener.lost()

    async def _changed(self, info: Mapping[str, Any]) -> None:
        """Return once the connection is to be another one."""
        while not self._again.is_set():
            with anyio.move_on_after(_LOOK_SECONDS):
                await self._again.wait()
            if self._info() != info:
                return

    def _info(self) -> dict[str, Any]:
        with plain_refusals():
            return dict(self._managers.get_kernel(self.kernel_id).get_connection_info())

    def _tell(self, what: str) -> None:
        """Jupyter ends idle kernels that nobody is connected to, where it is told to."""
        if (told := getattr(self._managers, what, None)) is not None:
            told(self.kernel_id)

    def _given_up(self) -> None:
        if self._is_running:
            self._listener.given_up()

    def _revived(self) -> None:
        if not self._is_running:
            return
        self._listener.revived()
        # The next process is not heard by a subscription that it has not taken.
        self.reset()

    @contextmanager
    def _following_restarts(self) -> Iterator[None]:
        """Hear what Jupyter does about a process that has died."""
        loop = asyncio.get_running_loop()
        # Managers that are not async call back from a loop of their own.
        heard = (
            ("restart", lambda: loop.call_soon_threadsafe(self._revived)),
            ("dead", lambda: loop.call_soon_threadsafe(self._given_up)),
        )
        with plain_refusals():
            for event, callback in heard:
                self._managers.add_restart_callback(self.kernel_id, callback, event)
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False
            # It may be gone.
            with suppress(JupyterMcpError), plain_refusals():
                for event, callback in heard:
                    self._managers.remove_restart_callback(self.kernel_id, callback, event)

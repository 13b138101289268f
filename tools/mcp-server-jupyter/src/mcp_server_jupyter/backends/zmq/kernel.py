"""What kernels have in common whose messages a `Dispatch` carries: state, death, epochs, requests, interrupt, restart.

Where the process runs, and how it is started, signalled and ended, its backend says.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Literal

import anyio

from ...errors import JupyterMcpError, KernelDead
from ...ports import Death, KernelState, Message
from .dispatch import Dispatch
from .request import Request

START_SECONDS = 60.0
_MOVE_SECONDS = 5.0
FAST_ARGUMENTS = ("--IPythonKernel._execute_sleep=0", "--HistoryManager.enabled=False")
"""For an ipykernel that is sent `fast_request`."""

# How long an interrupt that goes by message waits for its answer.
INTERRUPT_SECONDS = 3.0

# IPython keeps the folder it was started in, and a list of those it has been in (`%dhist`).
_MOVE = """\
def _move():
    import os
    from IPython import get_ipython
    os.chdir({folder!r})
    shell = get_ipython()
    shell.starting_dir = os.getcwd()
    been = shell.user_ns.get("_dh", [])
    been[:] = [type(each)(os.getcwd()) for each in been[:1]]
try:
    _move()
finally:
    del _move
"""


class KernelOfRequests(ABC):
    """What every kernel is whose messages a `Dispatch` carries, whoever started it: its state, requests and death."""

    def __init__(self) -> None:
        self.adopted = False
        self._death: Death | None = None
        self._asked = False
        self._unasked: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._lock = asyncio.Lock()

    @property
    @abstractmethod
    def epoch(self) -> int:
        """See `ports.Kernel.epoch`."""

    @property
    @abstractmethod
    def _dispatch(self) -> Dispatch | None:
        """Of this epoch; None before the first."""

    # ------------------------------------------------------------------ work

    @property
    def state(self) -> KernelState:
        """See `ports.Kernel.state`."""
        if self._death is not None:
            return "dead"
        return self._dispatch.state if self._dispatch is not None else "starting"

    @property
    def death(self) -> Death | None:
        """See `ports.Kernel.death`."""
        return self._death

    def request(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        channel: Literal["shell", "control"] = "shell",
        msg_id: str | None = None,
    ) -> Request:
        """See `ports.Kernel.request`. The request is sent at once, not when the first message is asked for."""
        return self._connected.request(msg_type, content, channel=channel, msg_id=msg_id)

    def stray(self) -> AsyncIterator[Message]:
        """See `ports.Kernel.stray`."""
        return self._connected.stray.messages()

    async def send_input(self, text: str, request: Message) -> None:
        """See `ports.Kernel.send_input`."""
        self._alive().answer(text, request)

    async def wait_dead(self) -> Death:
        """See `ports.Kernel.wait_dead`."""
        return await asyncio.shield(self._unasked)

    def _begun(self) -> None:
        """A process has been started: it lives until it is said to be dead."""
        self._death, self._asked = None, False

    def _died(self, death: Death) -> None:
        """This epoch's process has ended."""
        self._death = death
        if self._dispatch is not None:
            self._dispatch.fail(dead_as(death))
        if not self._asked and not self._unasked.done():
            self._unasked.set_result(death)

    @property
    def _connected(self) -> Dispatch:
        if self._dispatch is None:
            raise KernelDead("The kernel has not been started.", hint="Start it again.")
        return self._dispatch

    def _alive(self) -> Dispatch:
        if self._death is not None:
            raise dead_as(self._death)()
        return self._connected


class DispatchedKernel(KernelOfRequests):
    """One kernel over processes that the server itself starts, signals and ends; a `ports.Kernel` but for what the
    subclass adds."""

    is_recorded = True
    ends_with_server = True
    foreign_since: float | None = None

    # ------------------------------------------------------------------ what the backend says

    @property
    @abstractmethod
    def _interrupt_mode(self) -> str:
        """As the kernelspec has it: "signal" or "message"."""

    @abstractmethod
    async def begin(self, epoch: int) -> None:
        """Start the process of an epoch and return once it answers."""

    @abstractmethod
    async def discard(self) -> None:
        """End the kernel at once and remove every trace of it."""

    @abstractmethod
    async def _may_restart(self) -> None:
        """Raise what is known to stand against a restart, before the process that runs is ended."""

    @abstractmethod
    async def _signal(self, number: int) -> None:
        """Send a signal to the kernel and its children."""

    @abstractmethod
    async def _has_ended(self, within: float = 0) -> bool:
        """Whether the process ends within so many seconds, or has, or there never was one."""

    @abstractmethod
    async def _kill(self) -> None:
        """End the process, and what must end with it, at once. Idempotent, and not to be cancelled."""

    @abstractmethod
    def _disconnect(self, error: Callable[[], JupyterMcpError]) -> None:
        """The epoch is over: whatever still waits is told `error`."""

    # ------------------------------------------------------------------ life

    async def interrupt(self, msg_id: str | None = None) -> None:
        """See `ports.Kernel.interrupt`. Nobody else's code runs here: whatever runs is what was meant."""
        dispatch = self._alive()
        dispatch.interrupted()
        if self._interrupt_mode == "message":
            # A kernel that is stuck does not answer, and whoever interrupts it must not be stuck, too.
            with anyio.move_on_after(INTERRUPT_SECONDS):
                async with aclosing(dispatch.request("interrupt_request", {}, channel="control")) as answer:
                    async for _ in answer:
                        pass
        else:
            await self._signal(signal.SIGINT)
        # An event loop that sleeps in `await asyncio.sleep()` sees the signal only once something wakes it
        # (ipykernel #881); any shell message does. Its answer also ends a request that the signal left without one.
        dispatch.request("kernel_info_request", {})

    async def restart(self) -> None:
        """See `ports.Kernel.restart`. What can be known to be missing is looked for before the old process ends."""
        async with self._lock:
            await self._may_restart()
            await self._end(restart=True)
            self._disconnect(lambda: KernelDead("The kernel was restarted.", reason="restarted"))
            self._death = self._death or Death(None, "restarted")
            if self._unasked.done():
                self._unasked = asyncio.get_running_loop().create_future()
            await self.begin(self.epoch + 1)

    async def shutdown(self) -> None:
        """See `ports.Kernel.shutdown`. Begun once, it ends: cancelled, without patience for the kernel."""
        async with self._lock:
            try:
                await self._end(restart=False)
            finally:
                await self.discard()

    async def _end(self, *, restart: bool) -> None:
        self._asked = True
        if not await self._has_ended():
            # A busy kernel stops only after its cell, and a person who shuts it down does not want to wait for that.
            patience = 0.3 if self.state == "busy" else 2.0
            if self._dispatch is not None and self.state != "dead":
                self._dispatch.send("control", "shutdown_request", {"restart": restart})
            if not await self._has_ended(patience):
                await self._signal(signal.SIGTERM)
                await self._has_ended(0.5)
        await self._kill()


def dead_as(death: Death) -> Callable[[], KernelDead]:
    """What a request to a kernel that ended so is told."""
    return lambda: KernelDead(
        f"The kernel ended: {death.reason}.",
        exit_code=death.exit_code,
        reason=death.reason,
        hint="Its variables are lost; restart_kernel starts a new process.",
    )


def named(code: int) -> Death:
    """An end by its exit code, which is negative for a signal."""
    if code >= 0:
        return Death(code, f"exit code {code}")
    try:
        return Death(code, signal.Signals(-code).name)
    except ValueError:
        return Death(code, f"signal {-code}")


def fast_request() -> dict[str, Any]:
    """The silent request that makes a kernel a fast one; see `fast_kernel`."""
    source = importlib.resources.files(__package__).joinpath("fast_kernel.py").read_text(encoding="utf-8")
    code = f"exec(compile({source!r}, 'mcp-server-jupyter', 'exec'), {{'__name__': 'fast_kernel'}})"
    return {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "user_expressions": {}}


async def move_to(kernel: KernelOfRequests, folder: str) -> bool:
    """Have an ipykernel that waited elsewhere be in a folder as if it had been started there; False if it is not."""
    code = _MOVE.format(folder=folder)
    content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "user_expressions": {}}
    fine = False
    with anyio.move_on_after(_MOVE_SECONDS):
        async with aclosing(kernel.request("execute_request", content)) as request:
            async for message in request:
                if message.msg_type == "execute_reply":
                    fine = message.content.get("status") == "ok"
    return fine

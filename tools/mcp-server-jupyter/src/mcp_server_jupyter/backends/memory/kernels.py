"""Kernels inside this process, for tests and as a reference: the messages of ipykernel without a process.

Code runs by `exec` in a thread, one cell at a time. Not a sandbox, and not a kernel to work with.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel

from ...errors import InvalidRequest, KernelDead, NotFound, OutsideRoot, Unavailable
from ...ports import Channel, Death, Kernelspec, KernelState, KernelStats, Message, Replay
from ...settings import Settings
from .interpreter import Cell, Interpreter

_Queue = asyncio.Queue[tuple[str, str, Mapping[str, Any]]]
_STRAY = 1000
_SPEC = Kernelspec("python3", "Python 3 (in memory)", "python", ())
_RECORDS = 50
"""Finished requests that can be met again."""


class _Record:
    """The messages of one request, kept so that it can be met again."""

    def __init__(self, missing: int) -> None:
        self.messages: list[Message] = []
        self.missing = missing
        self.error: KernelDead | None = None
        self.changed = asyncio.Event()

    def feed(self, message: Message, ends: int) -> None:
        self.messages.append(message)
        self.missing &= ~ends
        self.changed.set()

    def fail(self, error: KernelDead) -> None:
        if self.missing and self.error is None:
            self.error = error
        self.changed.set()


class _Stream:
    """An iterator over a record, as `ports.Kernel.request` returns."""

    def __init__(self, record: _Record) -> None:
        self._record = record
        self._at = 0
        self._closed = False

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Message:
        record = self._record
        while self._at >= len(record.messages) or self._closed:
            if record.error is not None:
                raise record.error
            if not record.missing or self._closed:
                raise StopAsyncIteration
            record.changed.clear()
            await record.changed.wait()
        self._at += 1
        return record.messages[self._at - 1]

    async def aclose(self) -> None:
        self._closed = True
        self._record.changed.set()


class MemoryKernel:
    """A kernel in this process. See `ports.Kernel`; `die` is for tests."""

    is_recorded = True
    ends_with_server = True
    foreign_since: float | None = None

    def __init__(self, owner: MemoryKernels, identity: str, cwd: str, epoch: int) -> None:
        self.id = identity
        self.name = "python3"
        self.language = "python"
        self.cwd = cwd
        self.epoch = epoch - 1
        self.state: KernelState = "starting"
        self.death: Death | None = None
        self.unreachable_since: float | None = None
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._records: dict[str, _Record] = {}
        self._unasked: asyncio.Future[Death] = self._loop.create_future()
        self.begin()

    def begin(self) -> None:
        """Start an epoch."""
        self.epoch += 1
        self.state, self.death = "idle", None
        if self._unasked.done():
            self._unasked = self._loop.create_future()
        self._interpreter = Interpreter(self.epoch, self._send)
        self._queue: _Queue = asyncio.Queue()
        self._stray: asyncio.Queue[Message | None] = asyncio.Queue()
        self._worker = self._loop.create_task(self._work(self._queue, self._interpreter))

    # ------------------------------------------------------------------ work

    def request(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        channel: Literal["shell", "control"] = "shell",
        msg_id: str | None = None,
    ) -> _Stream:
        """See `ports.Kernel.request`."""
        msg_id = msg_id or uuid.uuid4().hex
        record = _Record(3 if channel == "shell" else 1)
        if self.death is not None:
            record.fail(_dead(self.death))
            return _Stream(record)
        for old in [key for key, each in self._records.items() if not each.missing][:-_RECORDS]:
            del self._records[old]
        self._records[msg_id] = record
        if channel == "shell":
            self._queue.put_nowait((msg_id, msg_type, dict(content)))
        else:
            self._answer(msg_id, msg_type, "control")
        return _Stream(record)

    async def stray(self) -> AsyncIterator[Message]:
        """See `ports.Kernel.stray`."""
        waiting = self._stray
        while (message := await waiting.get()) is not None:
            yield message
        waiting.put_nowait(None)

    async def send_input(self, text: str, request: Message) -> None:
        """See `ports.Kernel.send_input`."""
        if self.death is not None:
            raise _dead(self.death)
        self._interpreter.answer(text)

    async def interrupt(self, msg_id: str | None = None) -> None:
        """See `ports.Kernel.interrupt`."""
        if self.death is not None:
            raise _dead(self.death)
        self._interpreter.interrupt()

    async def stats(self) -> KernelStats:
        """See `ports.Kernel.stats`."""
        return KernelStats()

    async def resume(self, msg_id: str, had: Sequence[Message] = ()) -> Replay:
        """See `ports.Kernel.resume`."""
        record = self._records.get(msg_id)
        if record is None:
            return Replay(_Stream(_Record(0)), complete=False, lost="The kernel never received this request.")
        return Replay(_Stream(record), complete=True)

    async def _work(self, queue: _Queue, interpreter: Interpreter) -> None:
        while True:
            msg_id, msg_type, content = await queue.get()
            self.state = "busy"
            self._send(msg_id, "iopub", "status", {"execution_state": "busy"})
            if msg_type == "execute_request":
                # Not in the thread: what two threads parse at once Python may take for a broken tree, see
                # https://github.com/python/cpython/issues/106905.
                cell = Cell.of(content["code"])
                reply = await asyncio.to_thread(interpreter.execute, msg_id, content, cell)
                self._send(msg_id, "shell", "execute_reply", reply)
                if reply["status"] == "error" and content.get("stop_on_error", True):
                    self._abort(queue)
            else:
                self._answer(msg_id, msg_type, "shell")
            self.state = "idle"
            self._send(msg_id, "iopub", "status", {"execution_state": "idle"})

    def _abort(self, queue: _Queue) -> None:
        waiting = [queue.get_nowait() for _ in range(queue.qsize())]
        for msg_id, msg_type, content in waiting:
            if msg_type != "execute_request":
                queue.put_nowait((msg_id, msg_type, content))
                continue
            self._send(msg_id, "iopub", "status", {"execution_state": "busy"})
            self._send(msg_id, "shell", "execute_reply", {"status": "aborted"})
            self._send(msg_id, "iopub", "status", {"execution_state": "idle"})

    def _answer(self, msg_id: str, msg_type: str, channel: Channel) -> None:
        content: dict[str, Any] = {"status": "ok"}
        if msg_type == "kernel_info_request":
            content |= {"implementation": "memory", "protocol_version": "5.4", "language_info": {"name": "python"}}
        self._send(msg_id, channel, msg_type.removesuffix("_request") + "_reply", content)

    def _send(self, parent: str, channel: Channel, msg_type: str, content: dict[str, Any]) -> None:
        record = self._records.get(parent)
        if record is None or self.death is not None:
            return
        if not record.missing:
            if self._stray.qsize() >= _STRAY:
                self._stray.get_nowait()
            self._stray.put_nowait(Message(channel, msg_type, uuid.uuid4().hex, parent, content))
            return
        ends = 0
        if msg_type == "status" and content["execution_state"] == "idle":
            ends = 2
        elif channel in ("shell", "control"):
            ends = 1
        record.feed(Message(channel, msg_type, uuid.uuid4().hex, parent, content), ends)

    # ------------------------------------------------------------------ life

    def die(self, exit_code: int = -9, reason: str = "SIGKILL") -> None:
        """End as a process would that is killed."""
        self._stop(Death(exit_code, reason))
        if not self._unasked.done():
            self._unasked.set_result(Death(exit_code, reason))

    async def restart(self) -> None:
        """See `ports.Kernel.restart`."""
        if self.death is not None:
            self._owner.require_room()
        self._stop(Death(0, "restarted"))
        self._records = {}
        self.begin()

    async def shutdown(self) -> None:
        """See `ports.Kernel.shutdown`."""
        self._stop(Death(0, "shut down"))
        self._owner.forget(self)

    async def wait_dead(self) -> Death:
        """See `ports.Kernel.wait_dead`."""
        return await asyncio.shield(self._unasked)

    def _stop(self, death: Death) -> None:
        if self.death is not None:
            return
        self.state, self.death = "dead", death
        self._stray.put_nowait(None)
        self._worker.cancel()
        self._interpreter.stop()
        for record in self._records.values():
            record.fail(_dead(death))


class MemoryKernels:
    """Kernels in this process. See `ports.Kernels`.

    `before_start` is for tests: it is awaited with the start's `progress` before there is a kernel.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.before_start: Callable[[Callable[[str], None]], Awaitable[None]] | None = None
        self._kernels: dict[str, MemoryKernel] = {}

    async def __aenter__(self) -> MemoryKernels:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for kernel in list(self._kernels.values()):
            await kernel.shutdown()

    async def specs(self) -> Sequence[Kernelspec]:
        """See `ports.Kernels.specs`."""
        return [_SPEC]

    async def lead(self, waiting: Callable[[str], None]) -> None:
        """See `ports.Kernels.lead`. They are nobody else's."""

    async def superseded(self) -> str:
        """See `ports.Kernels.superseded`. It never happens."""
        await anyio.sleep_forever()
        raise AssertionError("sleep_forever returned")

    async def start(
        self,
        name: str,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        epoch: int = 1,
        progress: Callable[[str], None] | None = None,
        notebook: str | None = None,
    ) -> MemoryKernel:
        """See `ports.Kernels.start`. `env` has no effect: the kernel is this process."""
        if name != _SPEC.name:
            raise NotFound(f"There is no kernelspec {name!r}.", hint="There are: python3.")
        self.require_room()
        root = self.settings.root.resolve()
        try:
            folder = (root / cwd).resolve()
            there = await anyio.Path(folder).is_dir()
        except (OSError, ValueError) as error:
            raise InvalidRequest("That cannot be a folder's name.", hint="Give an existing folder.") from error
        if not folder.is_relative_to(root):
            raise OutsideRoot(f"The folder {cwd!r} is outside the root.", hint="Give a folder relative to the root.")
        if not there:
            raise InvalidRequest(f"There is no folder {cwd!r}.", hint="Give an existing folder.")
        tell = progress or _unheard
        tell("starting the kernel")
        await anyio.lowlevel.checkpoint()
        if self.before_start is not None:
            await self.before_start(tell)
        kernel = MemoryKernel(self, str(uuid.uuid4()), Path(cwd).as_posix() if cwd else "", epoch)
        self._kernels[kernel.id] = kernel
        return kernel

    async def of_notebook(self, notebook: str, *, epoch: int = 1) -> None:
        """See `ports.Kernels.of_notebook`. Nobody else starts kernels here."""

    async def adopt(self) -> Sequence[MemoryKernel]:
        """See `ports.Kernels.adopt`. There are never any: they end with this process."""
        return []

    async def release(self) -> None:
        """See `ports.Kernels.release`. Without effect, for the same reason."""

    def require_room(self) -> None:
        """Raise `Unavailable` if one more living kernel would be too many."""
        if sum(kernel.death is None for kernel in self._kernels.values()) >= self.settings.max_kernels:
            raise Unavailable("There are as many kernels as --max-kernels allows.", hint="Shut one down.")

    def forget(self, kernel: MemoryKernel) -> None:
        """Count a kernel no more."""
        self._kernels.pop(kernel.id, None)


def _unheard(stage: str) -> None:
    """Progress that nobody asked for."""


def _dead(death: Death) -> KernelDead:
    return KernelDead(
        f"The kernel ended: {death.reason}.",
        exit_code=death.exit_code,
        reason=death.reason,
        hint="Its variables are lost; restart_kernel starts a new process.",
    )

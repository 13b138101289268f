"""One kernel on this machine and its record. What its folder holds is told in `kernels`."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from ...control_group import memory
from ...errors import JupyterMcpError, KernelDead, KernelStartFailed
from ...ports import Death, KernelStats, Message, Replay
from ...settings import Settings
from ..zmq.dispatch import Dispatch
from ..zmq.kernel import FAST_ARGUMENTS, START_SECONDS, DispatchedKernel, dead_as, fast_request, move_to
from ..zmq.wire import Wire
from . import kernelspecs, recorder
from .forking.client import ForkServer
from .forking.forks import Forks, Line
from .process import KernelProcess, Launch, kill_leftover, read_death, write_order
from .replay import replay
from .system import below, clean, connection, disk, environment, is_free, remove, remove_sockets
from .watch import resident_bytes

if TYPE_CHECKING:
    import zmq

RECORD = "record.json"
ADOPT_SECONDS = 5.0


class Owner(Protocol):
    """What a kernel needs of the collection it is in."""

    @property
    def settings(self) -> Settings: ...

    @property
    def context(self) -> zmq.Context[Any]: ...

    @property
    def descriptors(self) -> int | None:
        """The soft limit of open files that kernels get."""

    @property
    def forks(self) -> Forks: ...

    def require_room(self) -> None:
        """Raise `Unavailable` if one more living kernel would be too many."""

    def forget(self, kernel: LocalKernel) -> None:
        """Count a kernel no more."""


class LocalKernel(DispatchedKernel):
    """One kernel and its record. See `ports.Kernel`."""

    def __init__(self, owner: Owner, folder: Path, record: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self._owner = owner
        self._record = dict(record)
        self._wire: Wire | None = None
        self._process: KernelProcess | None = None
        self._line: Line | None = None
        self._source: ForkServer | None = None
        self._is_waiting = bool(record.get("waiting"))

    @property
    def id(self) -> str:
        return str(self._record["id"])

    @property
    def name(self) -> str:
        return str(self._record["name"])

    @property
    def language(self) -> str:
        return str(self._record["language"])

    @property
    def cwd(self) -> str:
        return str(self._record["cwd"])

    @property
    def epoch(self) -> int:
        return int(self._record["epoch"])

    @property
    def is_waiting(self) -> bool:
        """Whether it is nobody's yet, or on its way to its first user."""
        return self._is_waiting

    @property
    def is_forked(self) -> bool:
        """Whether this epoch's process was forked."""
        return self._source is not None

    @property
    def unreachable_since(self) -> float | None:
        """See `ports.Kernel.unreachable_since`. It is on this machine."""
        return None

    @property
    def _interrupt_mode(self) -> str:
        return str(self._record["interrupt_mode"])

    @property
    def _dispatch(self) -> Wire | None:
        return self._wire

    # ------------------------------------------------------------------ work

    async def stats(self) -> KernelStats:
        """See `ports.Kernel.stats`."""
        pid = self._process.pid if self._process is not None and self._death is None else None
        if pid is None:
            return KernelStats()
        used, limit = await anyio.to_thread.run_sync(_memory, pid)
        return KernelStats(memory_bytes=used, pid=pid, limit_bytes=limit)

    async def resume(self, msg_id: str, had: Sequence[Message] = ()) -> Replay:
        """See `ports.Kernel.resume`."""
        return await replay(self._connected, self.folder, msg_id)

    # ------------------------------------------------------------------ life

    async def _may_restart(self) -> None:
        if self._death is not None:
            self._owner.require_room()
        below(self._owner.settings.root, self.cwd)
        await self._find()

    async def begin(self, epoch: int) -> None:
        """Start the process of an epoch and return once it answers.

        Raises:
            NotFound, KernelStartFailed
            Unavailable: the record could not be written, or there was no descriptor left.
        """
        suspect: Line | None = None
        for attempt in range(3):
            with disk("The kernel's record cannot be written"):
                ports = await self._begin_once(epoch, may_fork=suspect is None)
            if ports is None:
                if self._line is not None:
                    self._line.succeeded()
                elif suspect is not None:
                    suspect.blame()
                return
            if self._line is not None:
                # Spawned, it says itself what is wrong, if anything is.
                suspect = self._line
                await self._kill()
            # A kernel that got none of its ports died because somebody else was faster: take others.
            elif attempt == 2 or all(map(is_free, ports)):
                raise self._start_failed("The kernel ended while it was starting")
            self._disconnect(lambda: KernelDead("The kernel did not start.", reason="no port"))

    async def claim(self, cwd: str, epoch: int) -> bool:
        """Be a first user's, in their folder; False if it is not what would be started there now. Then it is to go.

        Raises:
            NotFound: there is no such kernelspec any more.
            Unavailable: the record cannot be written.
        """
        recipe, folder = await self._find(), self._owner.settings.root / cwd
        line = self._owner.forks.line(recipe, recipe.environment(environment(self._record["env"])))
        if self._source is None or line is None or line is not self._line:
            return False
        if not await line.is_still(self._source, folder) or self._death is not None:
            return False
        if not await move_to(self, str(folder)):
            return False
        record = {**self._record, "cwd": cwd, "epoch": epoch, "interrupt_mode": recipe.interrupt_mode}
        del record["waiting"]
        with disk("The kernel's record cannot be written"):
            recorder.write_json(str(self.folder / RECORD), record)
        self._record, self._is_waiting = record, False
        return True

    async def _begin_once(self, epoch: int, *, may_fork: bool) -> list[int] | None:
        recipe = await self._find()
        info, ports = connection(self.id, epoch, self.name, ipc=recipe.is_ipykernel)
        self._save(recipe, epoch, info)
        await anyio.to_thread.run_sync(clean, self.folder, (RECORD, recorder.CONNECTION))
        argv = recipe.command(str(self.folder / recorder.CONNECTION))
        settings = self._owner.settings
        fast = settings.fast_kernels and recipe.is_ipykernel
        order = Launch(
            [*argv, *FAST_ARGUMENTS] if fast else argv,
            cwd=str(settings.root / self.cwd),
            lock=str(settings.root_state / recorder.SERVER_LOCK),
            orphan_seconds=settings.orphan_hours * 3600,
            descriptors=self._owner.descriptors,
        )
        env = recipe.environment(environment(self._record["env"]))
        write_order(self.folder, order)
        self._line = self._owner.forks.line(recipe, env) if may_fork else None
        self._process = await self._forked(Path(order.cwd)) or KernelProcess.launch(self.folder, env, self._exited)
        self._begun()
        try:
            self._connect(info)
            with anyio.fail_after(START_SECONDS):
                if fast:
                    self._connected.request("execute_request", fast_request())
                await self._connected.greet()
                with anyio.move_on_after(1):
                    await self._process.recording.wait()
        except KernelDead:
            return ports
        except TimeoutError:
            error = self._start_failed(f"The kernel did not answer in {START_SECONDS:.0f} s")
            await self._kill()
            raise error from None
        except JupyterMcpError:
            await self._kill()
            raise
        return None

    async def _forked(self, cwd: Path) -> KernelProcess | None:
        """The kernel's process, forked; None if it is to be spawned."""
        forked = await self._line.fork(self.folder, cwd) if self._line is not None else None
        self._source = None if forked is None else forked.source
        if forked is None:
            self._line = None
            return None
        return KernelProcess.forked(self.folder, forked, self._exited)

    async def _find(self) -> kernelspecs.Recipe:
        return await anyio.to_thread.run_sync(kernelspecs.find, self.name, self._owner.settings.root)

    def _save(self, recipe: kernelspecs.Recipe, epoch: int, info: Mapping[str, Any]) -> None:
        record = {
            **self._record,
            "epoch": epoch,
            "language": recipe.spec.language,
            "interrupt_mode": recipe.interrupt_mode,
            "session": uuid.uuid4().hex,
        }
        recorder.write_json(str(self.folder / RECORD), record)
        recorder.write_json(str(self.folder / recorder.CONNECTION), info)
        self._record = record

    def _connect(self, info: Mapping[str, Any]) -> None:
        self._wire = Wire(info, identity=self._record["session"], reconnect_ms=10)
        if self._death is None:
            self._wire.open(self._owner.context)
        else:
            self._wire.fail(dead_as(self._death))

    # ------------------------------------------------------------------ adoption

    async def adopt(self) -> None:
        """Take over from an earlier server, be the kernel alive or dead.

        Raises:
            OSError: its record cannot be read now. The kernel is left as it is.
            Unavailable: there is no descriptor left. The same.
        """
        self.adopted = True
        try:
            info = json.loads((self.folder / recorder.CONNECTION).read_bytes())
        except (FileNotFoundError, ValueError):
            info = {}
        self._process = KernelProcess.meet(self.folder, self._exited) if info else None
        if self._process is None:
            self._death = read_death(self.folder) or Death(None, "it ended while no server ran")
            kill_leftover(self.folder)
            self._connect(info)
            self._unasked.set_result(self._death)
            return
        try:
            self._connect(info)
            await self._meet(self._connected)
        except BaseException:
            self.release()
            raise

    async def _meet(self, wire: Dispatch) -> None:
        wire.state = "busy"
        try:
            with anyio.move_on_after(ADOPT_SECONDS):
                async for _ in wire.request("kernel_info_request", {}, channel="control"):
                    pass
            with anyio.move_on_after(0.3):
                await wire.greet()
        except KernelDead:
            # It ended just now; `death` says how.
            return

    def release(self) -> None:
        """Stop watching and listening; the kernel goes on."""
        if self._process is not None:
            self._process.forget()
        self._close(lambda: KernelDead("The server is ending; the kernel goes on.", reason="released"))

    # ------------------------------------------------------------------ end

    async def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    async def _has_ended(self, within: float = 0) -> bool:
        if self._process is None:
            return True
        await asyncio.wait([self._process.exited], timeout=within)
        return self._process.exited.done()

    async def _kill(self) -> None:
        self._asked = True
        process = self._process
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            # Repeated: a kernel that is being forked just now has no group to be signalled yet.
            for attempt in range(40):
                if process.exited.done():
                    break
                process.signal(signal.SIGKILL)
                if attempt >= 8:
                    process.end_recorder()
                await _wait_for(process.exited, 0.25)
            # It must not write into the folder any more.
            process.end_recorder()
            with anyio.move_on_after(1):
                await process.gone.wait()
            process.forget()

    def _exited(self, process: KernelProcess, death: Death) -> None:
        if process is self._process:
            self._died(death)

    def _close(self, error: Callable[[], JupyterMcpError]) -> None:
        if self._wire is not None:
            self._wire.fail(error)
            self._wire.close()

    def _disconnect(self, error: Callable[[], JupyterMcpError]) -> None:
        self._close(error)
        remove_sockets(self.folder)

    async def discard(self) -> None:
        """End the kernel at once and remove every trace of it."""
        await self._kill()
        self._death = self._death or Death(None, "shut down")
        self._disconnect(lambda: KernelDead("The kernel was shut down.", reason="shut down"))
        self._owner.forget(self)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove, self.folder)

    def _start_failed(self, what: str) -> KernelStartFailed:
        log = self._process.log() if self._process is not None else ""
        reason = f" ({self._death.reason})" if self._death is not None else ""
        return KernelStartFailed(f"{what}{reason}.", log=log, hint="The end of its log says why.")


async def _wait_for(future: asyncio.Future[Any], seconds: float) -> None:
    await asyncio.wait([future], timeout=seconds)


def _memory(pid: int) -> tuple[int | None, int | None]:
    """What a kernel uses, and the limit it shares with the server and the other kernels; None for the machine's."""
    there_is = memory()
    return resident_bytes(pid), None if there_is is None or there_is.is_machines else there_is.limit

"""Kernels on this machine, each with a small recorder process that outlives the server.

A kernel's record is a folder `STATE_DIR/kernels/ID/` (0700): `record.json` what it is, `connection.json` its channels
and key, `process.json` its pids, `iopub.N.log` what it has published, `kernel.log` what it printed on its own
streams, `exit.json` how it ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio

from ...errors import JupyterMcpError, KernelDead, KernelStartFailed, Unavailable
from ...ports import Death, Kernelspec, KernelState, KernelStats, Message, Replay
from ...settings import Settings
from ..zmq.request import Request
from ..zmq.wire import Wire
from . import kernelspecs, recorder
from .process import KernelProcess, kill_leftover, read_death, resident_bytes
from .replay import replay
from .system import (
    CHANNELS,
    below,
    clean,
    environment,
    fast_request,
    free_ports,
    is_free,
    remove,
    remove_sockets,
    runtime_folder,
)

if TYPE_CHECKING:
    import zmq

SERVER_LOCK = recorder.SERVER_LOCK
START_SECONDS = 60.0
_SHUTDOWN_SECONDS = 5.0
_RECORD = "record.json"
_FAST_ARGUMENTS = ("--IPythonKernel._execute_sleep=0", "--HistoryManager.enabled=False")


def open_kernels(settings: Settings) -> LocalKernels:
    """The kernels of this machine; an async context manager that owns them."""
    return LocalKernels(settings)


class LocalKernel:
    """One kernel and its record. See `ports.Kernel`."""

    def __init__(self, owner: LocalKernels, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder = folder
        self._owner = owner
        self._record = dict(record)
        self._wire: Wire | None = None
        self._process: KernelProcess | None = None
        self._death: Death | None = None
        self._asked = False
        self._unasked: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self._lock = asyncio.Lock()

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
    def state(self) -> KernelState:
        if self._death is not None:
            return "dead"
        return self._wire.state if self._wire is not None else "starting"

    @property
    def death(self) -> Death | None:
        return self._death

    # ------------------------------------------------------------------ work

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

    async def send_input(self, text: str, request: Message) -> None:
        """See `ports.Kernel.send_input`."""
        self._alive().answer(text, request)

    async def interrupt(self) -> None:
        """See `ports.Kernel.interrupt`."""
        wire = self._alive()
        if self._record["interrupt_mode"] == "message":
            async for _ in wire.request("interrupt_request", {}, channel="control"):
                pass
        elif self._process is not None:
            self._process.signal(signal.SIGINT)
        # An event loop that sleeps in `await asyncio.sleep()` sees the signal only once something wakes it
        # (ipykernel #881); any shell message does. Its answer also ends a request that the signal left without one.
        wire.request("kernel_info_request", {})

    def stray(self) -> AsyncIterator[Message]:
        """See `ports.Kernel.stray`."""
        return self._connected.stray.messages()

    async def stats(self) -> KernelStats:
        """See `ports.Kernel.stats`."""
        pid = self._process.pid if self._process is not None and self._death is None else None
        memory = await anyio.to_thread.run_sync(resident_bytes, pid) if pid is not None else None
        return KernelStats(memory_bytes=memory, pid=pid)

    async def resume(self, msg_id: str) -> Replay:
        """See `ports.Kernel.resume`."""
        return await replay(self._connected, self.folder, msg_id)

    # ------------------------------------------------------------------ life

    async def restart(self) -> None:
        """See `ports.Kernel.restart`."""
        async with self._lock:
            await self._end(restart=True)
            self._disconnect(lambda: KernelDead("The kernel was restarted.", reason="restarted"))
            self._record["epoch"] = self.epoch + 1
            if self._unasked.done():
                self._unasked = asyncio.get_running_loop().create_future()
            await self.begin()

    async def shutdown(self) -> None:
        """See `ports.Kernel.shutdown`."""
        async with self._lock:
            await self._end(restart=False)
            self._disconnect(lambda: KernelDead("The kernel was shut down.", reason="shut down"))
            self._owner.forget(self)
            await anyio.to_thread.run_sync(remove, self.folder)

    async def wait_dead(self) -> Death:
        """See `ports.Kernel.wait_dead`."""
        return await asyncio.shield(self._unasked)

    async def begin(self) -> None:
        """Start this epoch's process and return once it answers.

        Raises:
            KernelStartFailed
        """
        for attempt in range(3):
            ports = await self._begin_once()
            if ports is None:
                return
            # A kernel that got none of its ports died because somebody else was faster: take others.
            if attempt == 2 or all(map(is_free, ports)):
                raise self._start_failed("The kernel ended while it was starting")
            self._disconnect(lambda: KernelDead("The kernel did not start.", reason="no port"))

    async def _begin_once(self) -> list[int] | None:
        self._death, self._asked = None, False
        recipe = await anyio.to_thread.run_sync(kernelspecs.find, self.name, self._owner.settings.root)
        await anyio.to_thread.run_sync(clean, self.folder)
        info, ports = self._new_connection(recipe)
        self._save(recipe)
        argv = recipe.command(str(self.folder / recorder.CONNECTION))
        fast = self._owner.settings.fast_kernels and recipe.is_ipykernel
        self._process = KernelProcess.launch(
            self.folder,
            argv=[*argv, *_FAST_ARGUMENTS] if fast else argv,
            cwd=self._owner.settings.root / self.cwd,
            env={**environment(self._record["env"]), **recipe.env},
            lock=self._owner.settings.state_dir / SERVER_LOCK,
            orphan_seconds=self._owner.settings.orphan_hours * 3600,
            on_exit=self._exited,
        )
        self._connect(info)
        try:
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
        return None

    def _new_connection(self, recipe: kernelspecs.Recipe) -> tuple[dict[str, Any], list[int]]:
        info: dict[str, Any] = {"signature_scheme": "hmac-sha256", "key": secrets.token_hex(32)}
        info["kernel_name"] = self.name
        ports: list[int] = []
        # ipc has no ports to race for and lets no other user in; kernels in other languages may not speak it.
        if recipe.is_ipykernel:
            prefix = runtime_folder() / f"{self.id[:8]}.{self.epoch}"
            info |= {"transport": "ipc", "ip": str(prefix)}
            info |= {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        else:
            ports = free_ports(len(CHANNELS))
            info |= {"transport": "tcp", "ip": "127.0.0.1"}
            info |= {f"{channel}_port": port for channel, port in zip(CHANNELS, ports, strict=True)}
        recorder.write_json(str(self.folder / recorder.CONNECTION), info)
        return info, ports

    def _save(self, recipe: kernelspecs.Recipe) -> None:
        self._record |= {
            "language": recipe.spec.language,
            "interrupt_mode": recipe.interrupt_mode,
            "session": uuid.uuid4().hex,
        }
        recorder.write_json(str(self.folder / _RECORD), self._record)

    def _connect(self, info: Mapping[str, Any]) -> None:
        self._wire = Wire(info, identity=self._record["session"], reconnect_ms=10)
        self._wire.open(self._owner.context)
        if self._death is not None:
            self._exited(self._death)

    async def adopt(self) -> bool:
        """Take over from an earlier server; False if the kernel has ended."""
        self._process = KernelProcess.meet(self.folder, self._exited)
        if self._process is None:
            return False
        self._connect(json.loads((self.folder / recorder.CONNECTION).read_bytes()))
        wire = self._connected
        wire.state = "busy"
        try:
            with anyio.move_on_after(_SHUTDOWN_SECONDS):
                async for _ in wire.request("kernel_info_request", {}, channel="control"):
                    pass
            with anyio.move_on_after(0.3):
                await wire.greet()
        except KernelDead:
            return False
        return True

    def release(self) -> None:
        """Stop watching and listening; the kernel goes on."""
        if self._process is not None:
            self._process.forget()
        self._close(lambda: KernelDead("The server is ending; the kernel goes on.", reason="released"))

    # ------------------------------------------------------------------ end

    async def _end(self, *, restart: bool) -> None:
        process = self._process
        if process is None or process.exited.done():
            return
        self._asked = True
        # A busy kernel stops only after its cell, and a person who shuts it down does not want to wait for that.
        patience = 0.3 if self.state == "busy" else 2.0
        if self._wire is not None and self.state != "dead":
            self._wire.send("control", "shutdown_request", {"restart": restart})
            await _wait_for(process.exited, patience)
        if not process.exited.done():
            process.signal(signal.SIGTERM)
            await _wait_for(process.exited, 0.5)
        await self._kill()

    async def _kill(self) -> None:
        self._asked = True
        process = self._process
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            # Repeated: a kernel that is being forked just now has no group to be signalled yet.
            for _ in range(40):
                if process.exited.done():
                    return
                process.signal(signal.SIGKILL)
                await _wait_for(process.exited, 0.25)

    def _exited(self, death: Death) -> None:
        self._death = death
        if self._wire is not None:
            self._wire.fail(lambda: _dead(death))
        if not self._asked and not self._unasked.done():
            self._unasked.set_result(death)

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
        self._disconnect(lambda: KernelDead("The kernel was shut down.", reason="shut down"))
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove, self.folder)

    def _start_failed(self, what: str) -> KernelStartFailed:
        log = self._process.log() if self._process is not None else ""
        reason = f" ({self._death.reason})" if self._death is not None else ""
        return KernelStartFailed(f"{what}{reason}.", log=log, hint="The end of its log says why.")

    @property
    def _connected(self) -> Wire:
        if self._wire is None:
            raise KernelDead("The kernel has not been started.", hint="Start it again.")
        return self._wire

    def _alive(self) -> Wire:
        if self._death is not None:
            raise _dead(self._death)
        return self._connected


class LocalKernels:
    """The kernels of this machine. See `ports.Kernels`; `lost` holds those that ended while no server ran."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lost: list[tuple[str, Death]] = []
        self._kernels: dict[str, LocalKernel] = {}
        self._released = False
        self._context: zmq.Context[Any] | None = None
        # Starting is CPU-bound: more at once than this only makes each of them later.
        self._starting = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    @property
    def context(self) -> zmq.Context[Any]:
        """The ZMQ context of all channels, made with the first kernel."""
        if self._context is None:
            import zmq  # noqa: PLC0415  (not before a kernel is opened)

            self._context = zmq.Context()
            self._context.max_sockets = 16 * max(64, self.settings.max_kernels)
        return self._context

    async def __aenter__(self) -> LocalKernels:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    async def __aexit__(self, *exc: object) -> None:
        kernels = list(self._kernels.values())
        if self._released:
            for kernel in kernels:
                kernel.release()
        else:
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(_SHUTDOWN_SECONDS):
                    async with anyio.create_task_group() as tasks:
                        for kernel in kernels:
                            tasks.start_soon(kernel.shutdown)
                for kernel in list(self._kernels.values()):
                    await kernel.discard()
        self._kernels.clear()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def specs(self) -> Sequence[Kernelspec]:
        """See `ports.Kernels.specs`."""
        return await anyio.to_thread.run_sync(kernelspecs.listing, self.settings.root)

    async def start(self, name: str, *, cwd: str = "", env: Mapping[str, str] | None = None) -> LocalKernel:
        """See `ports.Kernels.start`.

        Raises:
            NotFound, KernelStartFailed
            Unavailable: there are `max_kernels` already.
        """
        if len(self._kernels) >= self.settings.max_kernels:
            raise Unavailable(
                f"There are {len(self._kernels)} kernels already, as many as --max-kernels allows.",
                hint="Shut one down with shutdown_kernel.",
            )
        folder = below(self.settings.root, cwd)
        identity = str(uuid.uuid4())
        record = {"id": identity, "name": name, "cwd": folder, "env": env and dict(env), "epoch": 1, "language": ""}
        kernel = LocalKernel(self, self._folder / identity, record)
        self._kernels[identity] = kernel
        try:
            async with self._starting:
                kernel.folder.mkdir(mode=0o700)
                await kernel.begin()
        except BaseException:
            await kernel.discard()
            self.forget(kernel)
            raise
        return kernel

    async def adopt(self) -> Sequence[LocalKernel]:
        """See `ports.Kernels.adopt`. Kernels that have ended meanwhile are in `lost` afterwards."""
        adopted = []
        for folder in sorted(self._folder.iterdir()):
            try:
                record = json.loads((folder / _RECORD).read_bytes())
            except (OSError, ValueError):
                # A start that was cut short: nothing to adopt, and nobody else will tidy it up.
                kill_leftover(folder)
                await anyio.to_thread.run_sync(remove, folder)
                continue
            if record["id"] in self._kernels:
                continue
            kernel = LocalKernel(self, folder, record)
            if await kernel.adopt():
                self._kernels[kernel.id] = kernel
                adopted.append(kernel)
                continue
            self.lost.append((kernel.id, read_death(folder) or Death(None, "ended while no server ran")))
            kill_leftover(folder)
            await kernel.discard()
        return adopted

    async def release(self) -> None:
        """See `ports.Kernels.release`."""
        self._released = True

    def forget(self, kernel: LocalKernel) -> None:
        """Count a kernel no more."""
        self._kernels.pop(kernel.id, None)

    @property
    def _folder(self) -> Path:
        return self.settings.state_dir / "kernels"


def _dead(death: Death) -> KernelDead:
    return KernelDead(
        f"The kernel ended: {death.reason}.",
        exit_code=death.exit_code,
        reason=death.reason,
        hint="Its variables are lost; restart_kernel starts a new process.",
    )


async def _wait_for(future: asyncio.Future[Any], seconds: float) -> None:
    await asyncio.wait([future], timeout=seconds)

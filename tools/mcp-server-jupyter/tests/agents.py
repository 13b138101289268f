"""Kernels behind agents that are processes of this machine: what a pod is to its container runtime, without one."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import zmq

from mcp_server_jupyter.backends.kubernetes.delivery import ENTRY, agent_config, agent_files
from mcp_server_jupyter.backends.kubernetes.host import CHANNEL_PORTS, Keys, Launch, Place
from mcp_server_jupyter.backends.kubernetes.kernel import PodKernel
from mcp_server_jupyter.backends.local import kernelspecs
from mcp_server_jupyter.backends.local.system import below
from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.ports import Death, Kernelspec
from mcp_server_jupyter.settings import Settings


def deliver(folder: Path) -> Path:
    """The agent's files as a pod has them; what is to be run."""
    for name, text in agent_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / ENTRY


def free_ports() -> dict[str, int]:
    """A port for each of an agent's, from below those that the system gives to whoever connects to somewhere.

    Test processes side by side take them from ranges of their own.
    """
    found: dict[str, int] = {}
    first = 12_000 + 2_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8)
    with ExitStack() as held:
        for name in (*CHANNEL_PORTS, "agent"):
            while name not in found:
                one = held.enter_context(socket.socket())
                port = first + secrets.randbelow(2_500)
                with suppress(OSError):
                    one.bind(("127.0.0.1", port))
                    found[name] = port
    return found


class AgentHost:
    """A place for one agent: a folder and a process of this machine. See `host.Host`."""

    def __init__(self, folder: Path, settings: Settings, name: str, cwd: str = "", **config: Any) -> None:
        self.id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(12))
        self.keys = Keys.new()
        self.lease = 1
        self.place = Place("here", 512 << 20)
        self.folder = folder / self.id
        self.settings = settings
        self.name, self.cwd = name, cwd
        self.config = config
        self.launch: Launch | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        self.created = 0
        self.changed = False
        # In between, for those who cut: asked for the agent's port, gives that of a proxy.
        self.through: Callable[[int], int] = lambda port: port
        self._sockets = tempfile.mkdtemp(prefix="agent")

    async def plan(self, epoch: int) -> Launch:
        recipe = kernelspecs.find(self.name, self.settings.root)
        return Launch(
            name=self.name,
            language=recipe.spec.language,
            argv=tuple(recipe.command("{connection_file}")),
            cwd=str(self.settings.root / self.cwd),
            folder=self.cwd,
            env=recipe.env,
            epoch=epoch,
            interrupt_mode=recipe.interrupt_mode,  # type: ignore[arg-type]
            ipc=recipe.is_ipykernel,
            fast=recipe.is_ipykernel,
        )

    async def fits(self, launch: Launch) -> bool:
        return not self.changed and self.process is not None and self.process.poll() is None

    async def create(self, launch: Launch, progress: Callable[[str], None]) -> None:
        progress("starting a process")
        self.end()
        self.launch = launch
        self.created += 1
        self.changed = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = free_ports()
        given = {"orphan_seconds": 3600.0, "grace_seconds": 2.0}
        config = agent_config(
            self.keys,
            launch,
            lease=self.lease,
            folder=self._sockets,
            record=str(self.folder / f"record.{self.created}"),
            last_word=str(self.folder / "last_word"),
            ip="127.0.0.1",
            ports=self.ports,
            **given,
        )
        config.update(self.config)
        file = self.folder / "agent.json"
        file.write_text(json.dumps(config))
        entry = deliver(self.folder.parent / "files")
        self.process = self._start([sys.executable, "-I", str(entry), str(file)])

    def _start(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log, (self.folder / "errors").open("ab") as errors:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=errors)

    async def address(self) -> tuple[str, int]:
        if self.process is None:
            raise Unavailable("It was not made.")
        return "127.0.0.1", self.through(self.ports["agent"])

    async def ended(self) -> Death:
        # A process can be waited for by one thread, and tests end it from anywhere.
        while self.process is None or self.process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        # As a cluster says it: later than the agent itself.
        await asyncio.sleep(0.3)
        return self._last_word() or Death(self.process.returncode, "the agent was killed")

    async def cause(self, told: Death, *, ending: bool = False) -> Death:
        return Death(told.exit_code, "its place is ending") if ending else told

    async def remove(self) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._sockets, ignore_errors=True)

    async def note(self, **annotations: str) -> None:
        self.notes |= annotations

    @property
    def kernel_pid(self) -> int:
        """Of the kernel that runs: the agent's child."""
        import psutil

        assert self.process is not None
        [kernel] = psutil.Process(self.process.pid).children()
        return int(kernel.pid)

    def _last_word(self) -> Death | None:
        try:
            told = json.loads((self.folder / "last_word").read_bytes())
            return Death(int(told["exit_code"]), "ended with its place")
        except (OSError, ValueError, KeyError):
            return None

    def end(self) -> None:
        """As a cluster ends a pod without patience: whatever runs in it."""
        if self.process is None:
            return
        with suppress(OSError):
            for pid in children(self.process.pid):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


class AgentKernels:
    """Kernels behind agents. See `ports.Kernels`."""

    def __init__(self, settings: Settings, **config: Any) -> None:
        self.settings = settings
        self.context: zmq.Context[Any] = zmq.Context()
        self.folder = settings.state_dir / "agents"
        self.kernels: dict[str, PodKernel] = {}
        self.higher: list[int] = []
        self.config = config
        # See `AgentHost.through`.
        self.through: Callable[[int], int] = lambda port: port
        self._released = False

    async def __aenter__(self) -> AgentKernels:
        return self

    async def __aexit__(self, *_: object) -> None:
        for kernel in list(self.kernels.values()):
            if self._released:
                kernel.release()
            else:
                await kernel.discard()
        self.context.destroy(linger=0)

    async def specs(self) -> Sequence[Kernelspec]:
        return kernelspecs.listing(self.settings.root)

    async def lead(self, waiting: Callable[[str], None]) -> None:
        """Nobody else is there."""

    async def superseded(self) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    async def of_notebook(self, notebook: str, *, epoch: int = 1) -> None:
        """Nobody else starts kernels."""

    async def start(
        self,
        name: str,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        epoch: int = 1,
        progress: Callable[[str], None] | None = None,
        notebook: str | None = None,
    ) -> PodKernel:
        self.require_room()
        host = AgentHost(self.folder, self.settings, name, below(self.settings.root, cwd), **self.config)
        host.through = self.through
        kernel = PodKernel(self, host, await host.plan(epoch))
        self.kernels[kernel.id] = kernel
        try:
            await kernel.begin(epoch, progress)
        except BaseException:
            await kernel.discard()
            raise
        return kernel

    async def adopt(self) -> Sequence[PodKernel]:
        return []

    async def take_over(self, kernel: PodKernel) -> PodKernel:
        """As another server finds it: by its place and what was noted there."""
        launch = kernel.host.launch  # type: ignore[attr-defined]
        found = PodKernel(self, kernel.host, launch)
        self.kernels[found.id] = found
        await found.adopt()
        return found

    async def release(self) -> None:
        self._released = True

    def require_room(self) -> None:
        living = sum(kernel.death is None for kernel in self.kernels.values())
        if living >= self.settings.max_kernels:
            raise Unavailable("There are too many.", hint="Shut one down.")

    def forget(self, kernel: PodKernel) -> None:
        self.kernels.pop(kernel.id, None)

    def outranked(self, lease: int) -> None:
        self.higher.append(lease)

"""A real Jupyter server as a process of its own, on a port that stays ours while it is killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.utils import ensure_async
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager, LargeFileManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, MappingKernelManager
from jupyter_server.services.sessions.sessionmanager import SessionManager
from traitlets.config import Config

from support import eventually

TOKEN = "jupyter-secret"


@asynccontextmanager
async def managers(root: Path, *, is_async: bool = True) -> AsyncIterator[Any]:
    """The managers of a Jupyter server in this very process, without what serves them over HTTP."""
    # Else a kernel's connection file is made in the working directory, where one that is killed leaves it.
    with TemporaryDirectory() as connections:
        config = Config()
        config.KernelRestarter.time_to_dead = 0.5
        config.KernelManager.shutdown_wait_time = 1.0
        config.MultiKernelManager.connection_dir = connections
        specs = KernelSpecManager()
        kernels = (AsyncMappingKernelManager if is_async else MappingKernelManager)(
            root_dir=str(root), kernel_spec_manager=specs, config=config
        )
        contents = (AsyncLargeFileManager if is_async else LargeFileManager)(root_dir=str(root), config=config)
        sessions = SessionManager(kernel_manager=kernels, contents_manager=contents, config=config)
        try:
            yield SimpleNamespace(
                kernel_manager=kernels,
                contents_manager=contents,
                session_manager=sessions,
                kernel_spec_manager=specs,
                web_app=SimpleNamespace(settings={}),
            )
        finally:
            await ensure_async(kernels.shutdown_all())
            sessions.close()
            # As the server's end does: sockets that are left are closed now, not some time later.
            kernels.context.destroy(linger=0)


_SERVE = """
import sys
from jupyter_server.serverapp import ServerApp
from tornado.netutil import bind_sockets

class Held(ServerApp):
    def _find_http_port(self):
        self._bound = bind_sockets(self.port, self.ip, reuse_port=True)

    def _bind_http_server_tcp(self):
        self.http_server.add_sockets(self._bound)
        return True

Held.launch_instance(sys.argv[1:])
"""


class Jupyter:
    """`jupyter server` over a folder. A socket that never listens keeps its port: nobody else can be given it.

    Args:
        python: whose jupyter-server it is.
        extensions: it loads those that are installed beside it.
        base: what the paths of its addresses begin with.
        environment: more of it.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        python: str = sys.executable,
        extensions: bool = False,
        base: str = "/",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root = folder / "notebooks"
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = folder / "jupyter.log"
        self._folder = folder
        self._python = python
        self._base = base
        self._environment = dict(environment or {})
        self._options = options if extensions else ("--ServerApp.jpserver_extensions={}", *options)
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.getsockname()[1]}{self._base}"

    def start(self) -> Jupyter:
        own = {
            name: str(self._folder / name.lower())
            for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
        }
        for folder in own.values():
            os.makedirs(folder, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self._python,
                    "-c",
                    _SERVE,
                    "--ServerApp.ip=127.0.0.1",
                    f"--ServerApp.port={self._port.getsockname()[1]}",
                    f"--IdentityProvider.token={TOKEN}",
                    f"--ServerApp.base_url={self._base}",
                    f"--ServerApp.root_dir={self.root}",
                    "--ServerApp.open_browser=False",
                    "--ServerApp.allow_root=True",
                    "--KernelRestarter.time_to_dead=0.5",
                    "--KernelManager.shutdown_wait_time=1",
                    *self._options,
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                env={**os.environ, **own, "PYTHONWARNINGS": "default", **self._environment},
            )
        eventually(self._answers, 110, "Jupyter's start")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        with suppress(OSError), urllib.request.urlopen(f"{self.url}api", timeout=5) as response:
            return bool(response.status == 200)
        return False

    def kill(self) -> None:
        """As a crash would: its kernels end when they notice."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._port.close()

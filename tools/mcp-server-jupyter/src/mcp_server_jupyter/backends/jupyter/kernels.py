"""The kernels of a Jupyter server: those we start, and those that notebooks have already."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from ...errors import AlreadyExists, JupyterMcpError, NotFound, OutsideRoot, Unavailable, Unsupported
from ...ports import Kernelspec
from ...settings import Settings
from ..shared.paths import check_path
from .connect import open_runtime_client
from .kernel import JupyterKernel, session_body
from .kernels_api import Json, KernelsApi, RestKernels
from .known import Known, KnownKernels

_SHUTDOWN_SECONDS = 10.0
# So long the kernel of a notebook is taken to be its kernel still, while it is connected.
_FRESH_SECONDS = 5.0


def open_kernels(settings: Settings) -> JupyterKernels:
    """The backend `jupyter`: the kernels of the Jupyter that `settings.runtime` names."""
    return JupyterKernels(settings)


class JupyterKernels:
    """The kernels of one Jupyter server. See `ports.Kernels`.

    Args:
        api: what that Jupyter is asked through; absent, its REST API at the address of the settings.
    """

    def __init__(self, settings: Settings, api: KernelsApi | None = None) -> None:
        self.settings = settings
        self.api: KernelsApi = api or RestKernels(open_runtime_client(settings))
        self.kept = KnownKernels(settings.root_state / "jupyter")
        self._kernels: dict[str, JupyterKernel] = {}
        self._released = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._resolved: dict[str, tuple[float, JupyterKernel]] = {}
        self._locks: dict[str, anyio.Lock] = {}

    async def __aenter__(self) -> JupyterKernels:
        self.kept.open()
        await self.api.__aenter__()
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = kind is not None and issubclass(kind, Exception)
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_SHUTDOWN_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for kernel in list(self._kernels.values()):
                        if kernel.ends_with_server and not self._released and not (failed and kernel.adopted):
                            tasks.start_soon(_shut_down, kernel)
            for kernel in list(self._kernels.values()):
                kernel.release()
            self._kernels.clear()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await self.api.__aexit__(None, None, None)

    async def lead(self, waiting: Callable[[str], None]) -> None:
        """See `ports.Kernels.lead`. Others of this Jupyter are no other server of ours: there the lock is enough."""

    async def superseded(self) -> str:
        """See `ports.Kernels.superseded`. It never happens: the lock is kept for life."""
        await anyio.sleep_forever()
        raise AssertionError("sleep_forever returned")

    def renew(self, settings: Settings) -> None:
        """See `ports.Renewable.renew`."""
        self.api.renew(None if settings.runtime is None else settings.runtime.token)

    async def specs(self) -> Sequence[Kernelspec]:
        """See `ports.Kernels.specs`."""
        listing = await self.api.specs()
        return [
            Kernelspec(name, spec.get("display_name", name), spec.get("language", ""), tuple(spec.get("argv", ())))
            for name, spec in ((name, model["spec"]) for name, model in sorted(listing.items()))
        ]

    # ------------------------------------------------------------------ kernels that are there

    async def of_notebook(self, notebook: str, *, epoch: int = 1) -> JupyterKernel | None:
        """See `ports.Kernels.of_notebook`. Asked again where it is not connected, or after five seconds."""
        async with self._locks.setdefault(notebook, anyio.Lock()):
            at, kernel = self._resolved.get(notebook, (0.0, None))
            if kernel is not None and kernel.is_reached and time.monotonic() - at < _FRESH_SECONDS:
                return kernel
            return await self._resolve(notebook, epoch)

    async def _resolve(self, notebook: str, epoch: int) -> JupyterKernel | None:
        session = _session_of(await self.api.sessions(), notebook)
        if session is None:
            self._resolved.pop(notebook, None)
            await self._look_for(notebook)
            return None
        return await self._meet(session, notebook, epoch)

    async def join(self, notebook: str, kernel_id: str) -> None:
        """See `ports.Joinable.join`."""
        async with self._locks.setdefault(notebook, anyio.Lock()):
            await self.api.kernel(kernel_id)
            session = _session_of(await self.api.sessions(), notebook)
            if session is None:
                await self.api.begin_session(session_body(notebook, {"id": kernel_id}))
            elif session["kernel"]["id"] != kernel_id:
                raise AlreadyExists(
                    f"{notebook} has kernel {session['kernel']['id']} ({session['kernel']['name']}) already.",
                    hint="Use that one, or shut it down first.",
                )

    async def _look_for(self, notebook: str) -> None:
        """Find out now whether the kernel that the notebook had is gone, where nobody listens to it."""
        for kernel in list(self._kernels.values()):
            if kernel.known.notebook == notebook and not kernel.is_reached and kernel.death is None:
                await kernel.look()

    async def _meet(self, session: Json, notebook: str, epoch: int, *, is_ours: bool = False) -> JupyterKernel:
        model = session["kernel"]
        kernel = self._kernels.get(model["id"])
        if kernel is None or kernel.death is not None:
            language = await self._language(model["name"])
            kernel = self._kernels.get(model["id"])
            if kernel is None or kernel.death is not None:
                known = Known(model["id"], model["name"], language, _folder(notebook), epoch, is_ours=is_ours)
                kernel = self._add(known)
        kernel.known.notebook, kernel.known.session = notebook, session["id"]
        self.kept.save(kernel.known)
        self._resolved[notebook] = time.monotonic(), kernel
        return kernel

    async def _language(self, name: str) -> str:
        return next((spec.language for spec in await self.specs() if spec.name == name), "")

    def _add(self, known: Known) -> JupyterKernel:
        kernel = self._kernels[known.id] = JupyterKernel(self, known)
        kernel.open()
        return kernel

    # ------------------------------------------------------------------ kernels that we start

    async def start(
        self,
        name: str,
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        epoch: int = 1,
        progress: Callable[[str], None] | None = None,
        notebook: str | None = None,
    ) -> JupyterKernel:
        """See `ports.Kernels.start`. It inherits Jupyter's environment."""
        if notebook is None:
            return await self._start(name, cwd, epoch, progress, None)
        async with self._locks.setdefault(notebook, anyio.Lock()):
            return await self._resolve(notebook, epoch) or await self._start(name, cwd, epoch, progress, notebook)

    async def _start(
        self, name: str, cwd: str, epoch: int, progress: Callable[[str], None] | None, notebook: str | None
    ) -> JupyterKernel:
        self.require_room()
        folder = _below(cwd)
        specs = {spec.name: spec for spec in await self.specs()}
        if name not in specs:
            raise NotFound(f"No kernelspec {name!r} in this Jupyter.", hint=f"There are: {', '.join(specs) or 'none'}.")
        if progress is not None:
            progress("starting the kernel in Jupyter" + (f" at {self.api.where}" if self.api.where else ""))
        await anyio.lowlevel.checkpoint()
        # Half way through, nobody would know the kernel that Jupyter has started.
        with anyio.CancelScope(shield=True):
            kernel = await self._create(name, specs[name].language, folder, epoch, notebook)
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            await kernel.come_up()
        except BaseException:
            if kernel.known.is_ours:
                with anyio.CancelScope(shield=True):
                    await _shut_down(kernel)
                    kernel.forget()
            raise
        return kernel

    async def _create(self, name: str, language: str, folder: str, epoch: int, notebook: str | None) -> JupyterKernel:
        if notebook is None:
            model = await self.api.start(name, folder)
            kernel = self._add(Known(model["id"], name, language, folder, epoch, is_ours=True))
            self.kept.save(kernel.known)
            return kernel
        body = session_body(notebook, {"name": name})
        try:
            session = await self.api.begin_session(body)
        except Unsupported as error:
            raise NotFound(str(error), hint="list_kernels names the kernelspecs there are.") from error
        return await self._meet(session, notebook, epoch, is_ours=True)

    # ------------------------------------------------------------------ kernels of an earlier server

    async def adopt(self) -> Sequence[JupyterKernel]:
        """See `ports.Kernels.adopt`."""
        known = [each for each in self.kept.all() if each.id not in self._kernels]
        if not known:
            return []
        there: set[str] | None = None
        try:
            there = {model["id"] for model in await self.api.kernels()}
        except JupyterMcpError:
            # Jupyter is away, or does not want us now: they are met once it is back.
            there = None
        met = []
        for each in known:
            kernel = self._kernels[each.id] = JupyterKernel(self, each)
            kernel.adopt()
            if there is not None and each.id not in there:
                kernel.lose("ended while no server ran: it was shut down, or its Jupyter was started anew")
            else:
                kernel.expect(reached=there is not None)
                kernel.open()
            met.append(kernel)
        return met

    async def release(self) -> None:
        """See `ports.Kernels.release`."""
        self._released = True

    # ------------------------------------------------------------------ what a kernel asks of us

    def require_room(self) -> None:
        """See `kernel.Owner.require_room`. Kernels that others started take none."""
        living = sum(kernel.death is None and kernel.known.is_ours for kernel in self._kernels.values())
        if living >= self.settings.max_kernels:
            raise Unavailable(
                f"There are {living} kernels already, as many as --max-kernels allows.",
                hint="Shut one down with shutdown_kernel.",
            )

    def forget(self, kernel: JupyterKernel) -> None:
        """See `kernel.Owner.forget`."""
        if self._kernels.get(kernel.id) is kernel:
            del self._kernels[kernel.id]
        self._resolved = {path: each for path, each in self._resolved.items() if each[1] is not kernel}

    def run(self, work: Callable[[], Any]) -> anyio.CancelScope:
        """See `kernel.Owner.run`."""
        assert self._tasks is not None
        scope = anyio.CancelScope()
        self._tasks.start_soon(_within, scope, work)
        return scope


async def _within(scope: anyio.CancelScope, work: Callable[[], Any]) -> None:
    with scope:
        await work()


async def _shut_down(kernel: JupyterKernel) -> None:
    try:
        await kernel.shutdown()
    except JupyterMcpError:
        # Jupyter is away, and its kernels are its own business now.
        return


def _session_of(sessions: Sequence[Json], notebook: str) -> Json | None:
    """The session of a notebook; JupyterLab may have made it under another path, with the notebook's name."""
    folder, _, name = notebook.rpartition("/")
    usable = [each for each in sessions if each.get("kernel")]
    for each in usable:
        if each.get("path") == notebook or _without_drive(each.get("path", "")) == notebook:
            return each
    for each in usable:
        path = _without_drive(each.get("path", ""))
        if each.get("name") == name and path.rpartition("/")[0] == folder and not path.endswith(".ipynb"):
            return each
    return None


def _without_drive(path: str) -> str:
    """Without the name of JupyterLab's drive: "RTC:folder/a.ipynb"."""
    drive, colon, rest = path.partition(":")
    return rest if colon and "/" not in drive else path


def _folder(notebook: str) -> str:
    return notebook.rpartition("/")[0]


def _below(folder: str) -> str:
    """A folder of Jupyter's in its canonical spelling.

    Raises:
        InvalidRequest, OutsideRoot
    """
    check_path(folder)
    parts: list[str] = []
    for part in folder.split("/"):
        if part == "..":
            if not parts:
                raise OutsideRoot(f"The folder {folder!r} is outside the root.", hint="Give one relative to the root.")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if folder.startswith("/"):
        raise OutsideRoot(f"The folder {folder!r} is outside the root.", hint="Give one relative to the root.")
    return "/".join(parts)

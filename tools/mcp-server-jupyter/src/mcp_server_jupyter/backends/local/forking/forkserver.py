"""The process that kernels of one interpreter are forked from: it has imported what an ipykernel imports.

    PYTHON forkserver.py ORDER PADDING

Descriptor 3 is a Unix socket without a name; its other end is the server's alone. ORDER is a JSON object: `preload`,
the modules to import besides, and `parent`, the server's process id. First it says one of

    {"importing": NAME}              what comes next may take its time, or be this process's end
    {"refused": NAME, "why": TEXT}   that module cannot be preloaded; it ends, as what the module has begun stays
    {"unfit": TEXT}                  kernels of this interpreter cannot be forked; it ends
    {"ready": {...}}                 see `_told`

and then answers each order {"folder": FOLDER} that comes with a socket by a recorder (see `recorder`), which forks the
kernel. Recorder and server agree over that socket before anything is begun: the recorder says who it is, and goes on
only when it reads a byte. So a server that waits no longer has started nothing.

It runs in the kernel's interpreter: the standard library only, Python 3.9 or newer, and nothing of it may stay
visible in a kernel. It has no thread at any time. It ends with its server.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_LOCAL = os.path.dirname(_HERE)
# What an ipykernel has imported by its first cell; what a version does not have is left out.
_KERNELS = (
    "runpy",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "pdb",
    "IPython.core.debugger",
    "faulthandler",
    "tornado.platform.asyncio",
    "tornado.queues",
    "ipykernel.debugger",
    "IPython.core.completerlib",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
)
_INLINE = "module://matplotlib_inline.backend_inline"
_MESSAGE = 1 << 16


class Become(BaseException):
    """Raised in a kernel's process, to leave everything of the fork server behind."""

    def __init__(self, parent: int, argv: Sequence[str]) -> None:
        super().__init__()
        self.parent = parent
        self.argv = list(argv)


# --------------------------------------------------------------------------- before the first fork


def _as_python_starts() -> None:
    """Signals as a Python that is started finds and sets them, whatever the server ignores."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def _forget_the_way_here() -> None:
    """Leave the search path as `python -m ipykernel_launcher` has it."""
    if sys.path and os.path.abspath(sys.path[0]) == _HERE:
        del sys.path[0]
    sys.path_importer_cache.pop(_HERE, None)


def _plain(folder: str, name: str) -> Any:
    """The module of a plain file, without a trace in the search path or among the modules."""
    path, modules = list(sys.path), set(sys.modules)
    spec = importlib.util.spec_from_file_location(name, os.path.join(folder, f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "recording" in set(sys.modules) - modules:
        del sys.modules["recording"]
    for added in set(sys.path) - set(path):
        sys.path_importer_cache.pop(added, None)
    sys.path[:] = path
    return module


def _stamps() -> dict[str, int]:
    """When what was imported from was changed, in nanoseconds; 0 for what is not there.

    Folders of packages change with every package that is installed. Modules from elsewhere are a person's own.
    """
    import site  # noqa: PLC0415 - loaded long ago, unless by -S

    folders = {folder for folder in (*sys.path, getattr(site, "USER_SITE", None)) if folder}
    packages = [os.path.join(folder, "") for folder in folders if os.path.basename(folder).endswith("-packages")]
    library = os.path.join(os.path.dirname(os.__file__), "")
    files = {sys.executable}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith((library, _LOCAL, *packages)):
            files.add(file)
    return {path: _changed(path) for path in sorted(folders | files)}


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _prepare(order: dict[str, Any], tell: Any, loading: Any) -> tuple[str, dict[str, Any]]:
    """Import everything; the launcher's file, and what the server is told.

    Raises:
        Unfit: kernels of this interpreter cannot be forked.
        SystemExit: a module cannot be preloaded, which has been told.
    """
    if sys.implementation.name != "cpython":
        raise loading.Unfit(f"its interpreter is {sys.implementation.name}")
    loader = loading.Loader()
    # The folders, before anything is read from them: what is installed meanwhile counts as a change.
    stamps = _stamps()
    for name in _KERNELS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            if name == "ipykernel.kernelapp":
                raise loading.Unfit(f"its ipykernel cannot be imported ({error})") from None
    import zmq  # noqa: PLC0415 - the kernel's own

    if not hasattr(zmq, "EVENT_HANDSHAKE_SUCCEEDED"):
        raise loading.Unfit("its pyzmq is too old")
    launcher = importlib.util.find_spec("ipykernel_launcher")
    if launcher is None or launcher.origin is None:
        raise loading.Unfit("it has no ipykernel_launcher")
    loader.check()
    loader.printed = os.fstat(2).st_size
    # ipykernel sets it before a cell can import matplotlib.
    given = os.environ.get("MPLBACKEND")
    if not given:
        os.environ["MPLBACKEND"] = _INLINE
    for name in order["preload"]:
        tell({"importing": name})
        try:
            loader.load(name)
        except loading.Unfit as why:
            tell({"refused": name, "why": str(why)})
            raise SystemExit(0) from None
    if not given and os.environ.pop("MPLBACKEND", None) not in (None, _INLINE):
        raise loading.Unfit("a preloaded module sets MPLBACKEND")
    stamps = {**_stamps(), **stamps}
    names = sorted({name.partition(".")[0] for name in sys.modules})
    return launcher.origin, {"version": sys.version.split()[0], "stamps": stamps, "modules": names}


def _freeze() -> None:
    """Keep the garbage collector from touching, and so from copying, what all kernels share."""
    is_known = "gc" in sys.modules
    import gc  # noqa: PLC0415 - a kernel has not imported it

    gc.collect()
    gc.freeze()
    if not is_known:
        del sys.modules["gc"]


class Title:
    """What the system shows of this process's arguments, written over those it was started with."""

    def __init__(self) -> None:
        import ctypes  # noqa: PLC0415 - the kernel's ipykernel has it, too

        self._move = ctypes.memmove
        # Source: proc(5), /proc/PID/stat, fields 48 and 49; as setproctitle does.
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self._start, self._size = int(fields[45]), int(fields[46]) - int(fields[45])

    def set(self, argv: Sequence[str]) -> None:
        """Show these arguments, as far as there is room for them."""
        shown = b"\0".join(os.fsencode(argument) for argument in argv)[: self._size - 1]
        if self._start:
            self._move(self._start, shown.ljust(self._size, b"\0"), self._size)


# --------------------------------------------------------------------------- after a fork


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in kept:
            try:
                os.close(number)
            except OSError:
                # Of the listing itself.
                continue


def _record(recorder: Any, title: Title, handlers: dict[int, Any], folder: str, status: int) -> None:
    """In a recorder's process: agree with the server, then start the kernel and record. Never returns.

    Raises:
        Become: in the kernel's process.
    """

    class Forked(recorder.Recorder):  # type: ignore[misc]
        """A recorder whose kernel is a fork of itself."""

        def become_kernel(self, output: int, failed: int, die_with_parent: Any, parent: int) -> None:
            try:
                self.prepare_kernel(output, die_with_parent, parent)
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            except OSError as error:
                os.write(failed, f"{error.errno} {error.filename or ''}".encode())
                os._exit(127)
            title.set(self.launch["argv"])
            raise Become(parent, self.launch["argv"])

    try:
        _close_all_but(status)
        title.set([sys.executable, recorder.__file__, folder])
        hello = {"recorder": os.getpid(), "born": recorder.birth(os.getpid())}
        os.write(status, json.dumps(hello).encode() + b"\n")
        if os.read(status, 1) == b"":
            os._exit(0)
        errors = os.open(os.path.join(folder, "recorder.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(errors, 2)
        os.close(errors)
        Forked(folder, status).run()
    except Become:
        raise
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as another
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _serve(control: socket.socket, recorder: Any, title: Title) -> None:
    """Fork for each order, until the server is gone.

    Raises:
        Become: in a kernel's process.
    """
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in signal.valid_signals()}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_DFL)}
    # Recorders that have ended leave nothing; a recorder and a kernel set what they need.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, sockets, _, _ = socket.recv_fds(control, _MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        try:
            if os.fork() == 0:
                _record(recorder, title, handlers, json.loads(data)["folder"], sockets[0])
        except OSError:
            # Without memory or processes: the socket's end says that nothing came of it.
            pass
        for descriptor in sockets:
            os.close(descriptor)


def _own_what_processes_own() -> None:
    """Make anew what a process that starts makes for itself alone."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()
    main = threading.main_thread()
    if hasattr(main, "_set_native_id"):
        main._set_native_id()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def main() -> Become:
    """Serve. Returns in a kernel's process only, and without anything of this one."""
    _forget_the_way_here()
    _as_python_starts()
    # What the server was started with, and lets its children have.
    _close_all_but(3)
    order = json.loads(sys.argv[1])
    control = socket.socket(fileno=3)

    loading = _plain(_HERE, "loading")

    def tell(what: dict[str, Any]) -> None:
        control.send(json.dumps(what).encode())

    try:
        title = Title()
        title.set([sys.executable, __file__])
        # What a module reads from the current folder while it is imported is no kernel's.
        os.chdir("/")
        recorder = _plain(_LOCAL, "recorder")
        recorder.recording.parent_death_signal()()
        if os.getppid() != order["parent"]:
            raise SystemExit(0)
        launcher, told = _prepare(order, tell, loading)
        _freeze()
        tell({"ready": told})
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
        _serve(control, recorder, title)
    except loading.Unfit as why:
        tell({"unfit": str(why)})
    except Become as become:
        os.environ["JPY_PARENT_PID"] = str(become.parent)
        control.detach()
        _close_all_but()
        _own_what_processes_own()
        sys.argv = [launcher, *become.argv[become.argv.index("ipykernel_launcher") + 1 :]]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv = become.argv
        return become
    raise SystemExit(0)


if __name__ == "__main__":
    _kernel = main()
    sys.modules["ipykernel.kernelapp"].IPKernelApp.launch_instance(parent_handle=_kernel.parent)

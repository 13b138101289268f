"""The process between the server and one kernel: it outlives the server, as containerd's shim outlives its daemon.

    python -I -S recorder.py FOLDER STATUS_FD

It is the kernel's parent. It starts the kernel, keeps the end of what the kernel prints, appends every iopub message
to segments `iopub.N.log` in FOLDER, and leaves `exit.json` behind when the kernel has ended. What it shall do is in
FOLDER/launch.json, its environment is the kernel's. On STATUS_FD it tells the server, one JSON object a line, the
kernel's pid (or why there is none) and then that it is recording.

It needs the standard library, `shared/recording.py` and zmq only, and imports zmq after the kernel process has been
started, so that the kernel's start is not delayed. Several functions of this module are also the reader's side, for
the server. A fork server runs it without a program of its own, in the kernel's interpreter: Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

if __package__:
    from ..shared import recording
else:
    # Run by its path, and alone (-I): what it shares lies in a folder beside its own.
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shared"))
    import recording  # type: ignore[import-not-found, no-redef]

SERVER_LOCK = "server.lock"
LAUNCH, PROCESS, EXIT, LOG, CONNECTION = "launch.json", "process.json", "exit.json", "kernel.log", "connection.json"
_BATCH = 4 << 20
_PRINTED = 512 << 10
pack, records, frames = recording.pack, recording.records, recording.frames


# --------------------------------------------------------------------------- files, also read by the server


def write_json(path: str, value: Any) -> None:
    """Write a file that is there whole or not at all, readable by its owner only."""
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)
    os.replace(path + ".new", path)


def birth(pid: int) -> str | None:
    """When a process started, in the system's own terms; None for one that is gone, "" where that is not known.

    Source: proc(5), /proc/PID/stat, field 22. A zombie counts as gone.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") else ""
    except ProcessLookupError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def segments(folder: str) -> list[str]:
    """The record's files, oldest first."""
    numbers = [int(name.split(".")[1]) for name in os.listdir(folder) if name.startswith("iopub.")]
    return [os.path.join(folder, f"iopub.{number}.log") for number in sorted(numbers)]


# --------------------------------------------------------------------------- out of memory


def oom_kills() -> dict[str, int]:
    """How often the kernel of the system has killed for want of memory, by the counters it shows.

    Source: proc(5) vmstat, for a machine without control groups; see `recording.memory_groups`.
    """
    return recording.counted(["/proc/vmstat", *(name for group in recording.memory_groups() for name in group)])


# --------------------------------------------------------------------------- the recorder itself


class Recorder:
    """One kernel's recorder. `run` returns when the kernel has ended and everything is written."""

    def __init__(self, folder: str, status: int) -> None:
        self.folder = folder
        self.status = status
        if status >= 0:
            os.set_inheritable(status, False)
        # Its leader already, where the system can spawn one as such.
        with suppress(PermissionError):
            os.setsid()
        with open(os.path.join(folder, LAUNCH)) as file:
            self.launch = json.load(file)
        self.wakeup, wakeup_write = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        self.ended: tuple[int, Any] | None = None
        self.segment = 0
        self.file = -1
        self.size = 0
        self.printed = 0
        self.idle = True
        self.connected = False
        self.alone_since: float | None = None
        # A server that was running when the package was upgraded does not say it.
        self.tick = float(self.launch.get("tick_seconds", 60))
        self.oom_before = oom_kills()

    def tell(self, **what: Any) -> None:
        """Tell the server, if it still listens."""
        if self.status < 0:
            return
        try:
            os.write(self.status, json.dumps(what).encode() + b"\n")
        except OSError:
            self.status = -1

    # ------------------------------------------------------------------ the kernel's process

    def spawn(self) -> None:
        """Fork the kernel, in a session of its own; a failed exec is told with its errno."""
        self.output, output_write = os.pipe()
        failed, failed_write = os.pipe()
        die_with_parent = recording.parent_death_signal()
        me = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self.become_kernel(output_write, failed_write, die_with_parent, me)
        os.close(output_write)
        os.close(failed_write)
        os.set_blocking(self.output, False)
        write_json(
            os.path.join(self.folder, PROCESS),
            {"recorder": [me, birth(me)], "kernel": [self.pid, birth(self.pid)]},
        )
        self.tell(pid=self.pid, born=birth(self.pid))
        reason = os.read(failed, 4096).decode()
        os.close(failed)
        if reason:
            number, _, name = reason.partition(" ")
            os.write(self.log_file(), f"{name}: {os.strerror(int(number))}\n".encode())

    def become_kernel(self, output: int, failed: int, die_with_parent: Any, parent: int) -> None:
        """In the kernel's process: run its program, or say on `failed` why that cannot be."""
        try:
            self.prepare_kernel(output, die_with_parent, parent)
            environment = dict(os.environ, JPY_PARENT_PID=str(parent))
            os.execvpe(self.launch["argv"][0], self.launch["argv"], environment)
        except OSError as error:
            os.write(failed, f"{error.errno} {error.filename or ''}".encode())
        finally:
            os._exit(127)

    def prepare_kernel(self, output: int, die_with_parent: Any, parent: int) -> None:
        """What a kernel's process is before its program begins: session, signals, limits, folder, standard streams."""
        os.setsid()
        if die_with_parent is not None:
            die_with_parent()
            if os.getppid() != parent:
                os._exit(127)
        # What is ignored here, or was where the server was started, the kernel would inherit.
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)) or signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        if self.launch["descriptors"] is not None:
            # Programs that close every possible descriptor take long where there are a million.
            import resource  # noqa: PLC0415  (POSIX only)

            resource.setrlimit(
                resource.RLIMIT_NOFILE, (self.launch["descriptors"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
        os.chdir(self.launch["cwd"])
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, output), (2, output)):
            os.dup2(source, target)

    def log_file(self) -> int:
        """The open file of what the kernel prints; rotated, so that two files of bounded size are kept."""
        path = os.path.join(self.folder, LOG)
        if self.printed > _PRINTED:
            os.replace(path, path + ".1")
            self.printed = 0
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def copy_output(self) -> bool:
        """Copy what the kernel printed into its log. False once nobody can print any more."""
        try:
            data = os.read(self.output, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        # A full disk must not end the kernel.
        with suppress(OSError):
            file = self.log_file()
            try:
                self.printed += os.write(file, data)
            finally:
                os.close(file)
        return True

    def has_ended(self) -> bool:
        """Whether the kernel is a zombie: left one until the end, so that nobody else gets its pid meanwhile."""
        if self.ended is None and hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        # macOS before Python 3.13 cannot look without taking. The number is given to others only after all the rest.
        if self.ended is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            self.ended = (status, usage) if pid else None
        return self.ended is not None

    # ------------------------------------------------------------------ recording

    def subscribe(self) -> None:
        """Import zmq and connect to iopub."""
        sys.path += self.launch["path"]
        import zmq  # noqa: PLC0415  (after the kernel's start, which must not wait for it)

        self.zmq = zmq
        with open(os.path.join(self.folder, CONNECTION)) as file:
            info = json.load(file)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.rcvhwm = 0
        self.socket.reconnect_ivl = 10
        self.topic = b"recorder-" + os.urandom(8).hex().encode()
        self.socket.subscribe(b"")
        self.socket.subscribe(self.topic)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        port = info["iopub_port"]
        ipc = info["transport"] == "ipc"
        self.socket.connect(f"ipc://{info['ip']}-{port}" if ipc else f"tcp://{info['ip']}:{port}")

    def record(self) -> bool:
        """Write what has arrived, up to one batch, with one write. False if nothing had."""
        batch, size = [], 0
        while size < _BATCH:
            try:
                parts = self.socket.recv_multipart(self.zmq.NOBLOCK)
            except self.zmq.Again:
                break
            if self.status >= 0:
                self.tell(recording=True)
                os.close(self.status)
                self.status = -1
            if b'"execution_state"' in parts[-1] and b'"execute_request"' in parts[-3]:
                self.idle = b'"idle"' in parts[-1]
            if parts[0] == self.topic:
                continue
            packed = pack(parts)
            batch.append(packed)
            size += len(packed)
        if not batch:
            return False
        try:
            self.append(b"".join(batch))
        except OSError:
            # A full disk must not end the kernel. Without its segments the record says itself that it is not whole,
            # and there is room again.
            self.drop_all()
        return True

    def is_connected(self) -> bool:
        """Whether the kernel may have sent something that has not been read from its connection yet."""
        while self.monitor.poll(0):
            number, _ = recording.MONITOR_EVENT.unpack(self.monitor.recv_multipart()[0])
            self.connected = number != self.zmq.EVENT_DISCONNECTED
        return self.connected

    def append(self, data: bytes) -> None:
        """Append to the newest segment, or begin the next one."""
        if self.file < 0 or self.size + len(data) > self.launch["segment_bytes"]:
            self.rotate()
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self.file, view) :]

    def drop_all(self) -> None:
        """Forget everything recorded; the next segment's number shows that there were others."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        for segment in segments(self.folder):
            os.unlink(segment)

    def rotate(self) -> None:
        """Begin the next segment, and forget the oldest if there are too many."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        self.segment += 1
        path = os.path.join(self.folder, f"iopub.{self.segment}.log")
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self.size = 0
        for old in segments(self.folder)[: -self.launch["segments"]]:
            os.unlink(old)

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        """Start the kernel, record until it ends, leave `exit.json`."""
        self.spawn()
        self.subscribe()
        events = self.zmq.POLLIN
        poller = self.zmq.Poller()
        for source in (self.wakeup, self.output, self.socket):
            poller.register(source, events)
        tick = time.monotonic() + self.tick
        while not self.has_ended():
            ready = dict(poller.poll(max(0, int((tick - time.monotonic()) * 1000))))
            if self.wakeup in ready:
                recording.empty(self.wakeup)
            if self.output in ready and not self.copy_output():
                poller.unregister(self.output)
            if self.socket in ready:
                self.record()
            if time.monotonic() >= tick:
                tick = time.monotonic() + self.tick
                self.look_after()
        self.finish()

    def look_after(self) -> None:
        """Every `tick` seconds: end a kernel without a server that was idle for too long, or whose record is gone."""
        self.oom_before = oom_kills()
        if _is_locked(self.launch["lock"]):
            self.alone_since = None
            return
        now = time.monotonic()
        self.alone_since = self.alone_since or now
        gone = not os.path.isdir(self.folder)
        if gone or (self.idle and now - self.alone_since >= self.launch["orphan_seconds"]):
            os.killpg(self.pid, signal.SIGTERM)
            self.alone_since = now - self.launch["orphan_seconds"] + 2 * self.tick
            for _ in range(50):
                if self.has_ended():
                    return
                select.select([self.wakeup], [], [], 0.1)
                recording.empty(self.wakeup)
            os.killpg(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """The kernel has ended: end what it left in its group, read what it still sent, write how it ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + 1
        while self.record() or (self.is_connected() and time.monotonic() < deadline):
            self.socket.poll(5)
        # What was read before the connection's end was told.
        while self.record():
            pass
        while select.select([self.output], [], [], 0)[0] and self.copy_output() and time.monotonic() < deadline:
            pass
        status, usage = self.ended or os.wait4(self.pid, 0)[1:]
        code = os.waitstatus_to_exitcode(status)
        after = oom_kills()
        killed = any(after[name] > self.oom_before.get(name, 0) for name in after)
        ended = {
            "exit_code": code,
            "signal": -code if code < 0 else None,
            "oom": code == -signal.SIGKILL and killed,
            "maxrss": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }
        # A folder that is gone, or a full disk: a server that runs has seen the end itself.
        with suppress(OSError):
            write_json(os.path.join(self.folder, EXIT), ended)


def _is_locked(path: str) -> bool:
    import fcntl  # noqa: PLC0415  (once a minute, POSIX only)

    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        # A shared lock for an instant: a server that starts right then has to ask twice.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


if __name__ == "__main__":
    Recorder(sys.argv[1], int(sys.argv[2])).run()

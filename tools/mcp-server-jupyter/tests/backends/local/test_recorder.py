"""The recorder: its files, and the rules by which it ends a kernel."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.backends.local import recorder
from mcp_server_jupyter.backends.local.process import _zmq_path
from mcp_server_jupyter.backends.shared import recording
from support import eventually


@given(st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=8), max_size=20), st.integers(0, 200))
def test_records_come_back_as_they_were_and_a_torn_end_is_left_out(messages: list[list[bytes]], cut: int) -> None:
    data = b"".join(recorder.pack(message) for message in messages)

    assert [recorder.frames(body) for _, body in recorder.records(data)] == messages
    torn = data[: max(0, len(data) - cut)]
    found = [recorder.frames(body) for _, body in recorder.records(torn)]
    assert found == messages[: len(found)]


def order(folder: Path, argv: list[str], **more: Any) -> None:
    lock = folder / "lock"
    lock.touch()
    wanted = {
        "argv": argv,
        "cwd": str(folder),
        "lock": str(lock),
        "orphan_seconds": 3600.0,
        "segments": 3,
        "tick_seconds": 60.0,
    }
    wanted |= {"segments": 3, "segment_bytes": 2000, "descriptors": None, "path": _zmq_path(), **more}
    recorder.write_json(str(folder / recorder.LAUNCH), wanted)
    recorder.write_json(
        str(folder / recorder.CONNECTION), {"transport": "ipc", "ip": str(folder / "k"), "iopub_port": 2}
    )


def recorded(folder: Path, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Run a recorder to its end; what it says about its kernel's."""
    command = [*prefix, sys.executable, "-I", "-S", recorder.__file__, str(folder), "-1"]
    subprocess.run(command, timeout=60, check=True)
    return dict(json.loads((folder / recorder.EXIT).read_bytes()))


def test_how_a_kernel_ended_is_written_down(tmp_path: Path) -> None:
    order(tmp_path, [sys.executable, "-c", "print('to the log'); raise SystemExit(4)"])
    ended = recorded(tmp_path)

    assert (ended["exit_code"], ended["signal"], ended["oom"]) == (4, None, False)
    assert ended["maxrss"] > 1_000_000
    assert (tmp_path / recorder.LOG).read_text() == "to the log\n"


def test_a_kernel_killed_by_a_signal_is_told_from_one_out_of_memory(tmp_path: Path) -> None:
    order(tmp_path, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    ended = recorded(tmp_path)

    assert (ended["exit_code"], ended["signal"], ended["oom"]) == (-9, 9, False)


def test_a_kernel_that_cannot_be_run_is_explained_in_its_log(tmp_path: Path) -> None:
    order(tmp_path, ["/no/such/kernel"])

    assert recorded(tmp_path)["exit_code"] == 127
    assert "No such file" in (tmp_path / recorder.LOG).read_text()


def test_the_log_of_a_kernel_that_prints_much_stays_bounded(tmp_path: Path) -> None:
    order(tmp_path, [sys.executable, "-c", "import sys\nfor n in range(300_000): print('line', n)"])
    recorded(tmp_path)
    sizes = [(tmp_path / name).stat().st_size for name in (recorder.LOG, recorder.LOG + ".1")]

    assert sum(sizes) < 1_300_000
    assert (tmp_path / recorder.LOG).read_text().endswith("line 299999\n")


PUBLISHER = """
import sys
sys.path[:0] = {path!r}
import zmq
context = zmq.Context()
socket = context.socket(zmq.XPUB)
socket.sndhwm = 0
socket.bind("ipc://{folder}/k-2")
socket.recv(); socket.recv()
for number in range(500):
    socket.send_multipart([b"topic", b"<IDS|MSG>", b"sig", b"h", b"p", b"m", b"%d" % number])
socket.close(5000)
context.term()
"""


def test_segments_rotate_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = PUBLISHER.format(path=_zmq_path(), folder=name)
        order(folder, [sys.executable, "-c", code], segments=3, segment_bytes=2000)
        recorded(folder)
        segments = recorder.segments(str(folder))
        numbers = [
            int(recorder.frames(body)[-1])
            for segment in segments
            for _, body in recorder.records(Path(segment).read_bytes())
        ]
    assert numbers[-1] == 499
    assert numbers == list(range(numbers[0], 500))
    assert len(segments) <= 3


def test_a_full_disk_costs_the_record_and_not_the_kernel(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = PUBLISHER.format(path=_zmq_path(), folder=name)
        order(folder, [sys.executable, "-c", code], segment_bytes=1 << 20)
        # No file may grow over some kilobytes: what the system says then is what it says of a full disk, too.
        ended = recorded(folder, prefix=["sh", "-c", 'ulimit -f 8; exec "$@"', "sh"])
        segments = recorder.segments(name)

    assert ended["exit_code"] == 0
    assert not any(segment.endswith("iopub.1.log") for segment in segments)


BUSY = """
import sys, time
sys.path[:0] = {path!r}
import zmq
socket = zmq.Context().socket(zmq.XPUB)
socket.bind("ipc://{folder}/k-2")
socket.recv(); socket.recv()
socket.send_multipart([
    b"status", b"<IDS|MSG>", b"sig", b"h", b'{{"msg_type": "execute_request"}}', b"m", b'{{"execution_state": "busy"}}'
])
time.sleep(300)
"""
IDLE = "import time; time.sleep(300)"
LOOKS = 5


@dataclass
class Watched:
    """A recorder, its kernel's record, and the lock by which it knows that a server is there."""

    folder: Path
    process: subprocess.Popen[bytes]
    server: IO[str]

    def leave_alone(self) -> None:
        """End the server."""
        fcntl.flock(self.server, fcntl.LOCK_UN)

    def still_runs_after_some_looks(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.1 * LOOKS)
        return self.process.poll() is None


@contextmanager
def watched(code: str, **more: Any) -> Iterator[Watched]:
    """A recorder that looks after its kernel ten times a second, and whose kernel runs and has been heard."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "record"
        folder.mkdir()
        text = code.format(path=_zmq_path(), folder=folder)
        order(folder, [sys.executable, "-c", text], tick_seconds=0.1, lock=str(Path(name) / "lock"), **more)
        (Path(name) / "lock").touch()
        command = [sys.executable, "-I", "-S", recorder.__file__, str(folder), "-1"]
        with (Path(name) / "lock").open() as server, subprocess.Popen(command) as process:
            fcntl.flock(server, fcntl.LOCK_EX)
            eventually((folder / recorder.PROCESS).exists)
            if code is BUSY:
                eventually(lambda: list(folder.glob("iopub.*.log")), what="the kernel is heard to be busy")
            try:
                yield Watched(folder, process, server)
            finally:
                with suppress(OSError, ValueError):
                    os.kill(kernel_of(folder), signal.SIGKILL)
                process.kill()


def kernel_of(folder: Path) -> int:
    return int(json.loads((folder / recorder.PROCESS).read_bytes())["kernel"][0])


def test_an_idle_kernel_without_a_server_is_ended_after_its_time() -> None:
    with watched(IDLE, orphan_seconds=0.3) as kernel:
        assert kernel.still_runs_after_some_looks()
        kernel.leave_alone()
        assert kernel.process.wait(60) == 0
        assert json.loads((kernel.folder / recorder.EXIT).read_bytes())["signal"] == signal.SIGTERM


def test_an_idle_kernel_has_its_whole_time() -> None:
    with watched(IDLE, orphan_seconds=3600.0) as kernel:
        kernel.leave_alone()
        assert kernel.still_runs_after_some_looks()


def test_a_busy_kernel_without_a_server_is_left_alone_while_its_record_is_there() -> None:
    with watched(BUSY, orphan_seconds=0.0) as kernel:
        kernel.leave_alone()
        assert kernel.still_runs_after_some_looks()
        shutil.rmtree(kernel.folder)
        assert kernel.process.wait(60) == 0


def test_the_systems_oom_counters_are_found() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("counters of Linux")
    assert recorder.oom_kills()


@pytest.mark.parametrize(
    ("groups", "own"),
    [
        ("12:pids:/x\n5:cpu,memory:/pods/a\n0::/y\n", "memory/pods/a/memory.oom_control"),
        ("0::/pods/a\n", "pods/a/memory.events"),
        ("5:memory:/elsewhere\n", "memory/memory.oom_control"),
        ("0::/elsewhere\n", "memory.events"),
        ("1:pids:/x\n", None),
    ],
)
def test_the_counters_of_a_group_are_its_own_or_its_containers(tmp_path: Path, groups: str, own: str | None) -> None:
    (tmp_path / "groups").write_text(groups)
    if own is not None:
        (tmp_path / "fs" / own).parent.mkdir(parents=True)
        (tmp_path / "fs" / own).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    files = recording.memory_groups(str(tmp_path / "groups"), str(tmp_path / "fs"))
    counted = recording.counted([name for group in files for name in group])

    assert counted == ({str(tmp_path / "fs" / own): 3} if own is not None else {})


def test_zmq_is_found_without_site_packages() -> None:
    assert (Path(_zmq_path()[0]) / "zmq" / "__init__.py").samefile(zmq.__file__)

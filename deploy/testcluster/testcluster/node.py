"""The node: process 1 of its own mount, network and process namespaces.

It starts every component, restarts what dies, reaps what is orphaned, and
writes what it knows to ``status.json``. Killing it ends the whole node, because
the kernel ends a process namespace with its first process: so whatever the
machine refuses it (a program, room on the disk) it tells, and tries again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from testcluster import cgroups
from testcluster.components import Component, all_components, own_command
from testcluster.config import NODE_IP, NODE_LINK, NODE_NAME, SERVICE_CIDR, Paths, without_proxies
from testcluster.shell import note, run, wait_for

FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0
PRIVATE = ("/run", "/var/log", "/var/lib")


@dataclass
class _Child:
    component: Component
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    delay: float = FIRST_DELAY
    not_before: float = 0.0
    started: float = 0.0
    healthy: bool = False
    last_exit: int | None = field(default=None)
    trouble: str = ""  # why it is not running, where that is not its own doing


def run_node(paths: Paths) -> None:
    """Never returns: the supervisor's loop."""
    cgroups.join()
    _isolate()
    _network()
    children = {component.name: _Child(component) for component in all_components(paths)}
    for child in children.values():
        Thread(target=_check_health, args=(child,), daemon=True).start()
    while True:
        supervise(children, paths)
        time.sleep(0.2)


def supervise(children: dict[str, _Child], paths: Paths) -> None:
    """One round; nothing the machine refuses ends it."""
    _reap(children)
    _start_what_is_due(children, paths)
    try:
        _publish(children, paths)
    except OSError as error:  # `status` sees that the file is old
        note(f"{paths.status} cannot be written: {error}")


def _isolate() -> None:
    """Give the node its own /proc, /run, /var/log and /var/lib, and mounts its pods can share."""
    run("mount", "--make-rshared", "/")
    run("mount", "-t", "proc", "proc", "/proc")
    for directory in PRIVATE:
        run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", directory)
    for directory in ("/var/log/containers", "/run/netns", "/run/lock"):
        Path(directory).mkdir(parents=True)
    socket.sethostname(NODE_NAME)


def _network() -> None:
    """Wait for the host to hand over its end of the link, then forward packets."""
    run("ip", "link", "set", "lo", "up")
    wait_for("the link to the host", _has_link, 20, lambda: f"    ({NODE_LINK} did not appear)")
    run("ip", "address", "add", f"{NODE_IP}/30", "dev", NODE_LINK)
    run("ip", "link", "set", NODE_LINK, "up")
    # Service addresses need a route before they are translated; nothing else is out there.
    run("ip", "route", "add", SERVICE_CIDR, "dev", NODE_LINK)
    run("ip", "route", "add", "unreachable", "default")
    settings = Path("/proc/sys/net")
    (settings / "ipv4/ip_forward").write_text("1")
    for scope in ("all", "default"):
        # A pod has the address it was given, and no way past the policies' IPv4 rules.
        (settings / "ipv4/conf" / scope / "rp_filter").write_text("1")
        no_ipv6 = settings / "ipv6/conf" / scope / "disable_ipv6"
        if no_ipv6.exists():
            no_ipv6.write_text("1")


def _has_link() -> bool:
    return any(name == NODE_LINK for _, name in socket.if_nameindex())


def _reap(children: dict[str, _Child]) -> None:
    """Collect every child that ended: ours, and orphans that became ours."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for child in children.values():
            if child.process is not None and child.process.pid == pid:
                _note_exit(child, os.waitstatus_to_exitcode(status))


def _note_exit(child: _Child, code: int) -> None:
    now = time.monotonic()
    if now - child.started > 30:
        child.delay = FIRST_DELAY
    child.not_before = now + child.delay
    child.delay = min(child.delay * 2, LONGEST_DELAY)
    child.process, child.healthy, child.last_exit = None, False, code


def _start_what_is_due(children: dict[str, _Child], paths: Paths) -> None:
    for child in children.values():
        if child.process is not None or time.monotonic() < child.not_before:
            continue
        if child.starts or all(children[name].healthy for name in child.component.after):
            _start(child, paths)


def _start(child: _Child, paths: Paths) -> None:
    child.started = time.monotonic()
    try:
        child.process = _spawn(child, paths)
    except OSError as error:  # no program, no room: that may end
        trouble = f"cannot be started: {error}"
        if trouble != child.trouble:
            note(f"{child.component.name} {trouble}")
        child.trouble = trouble
        child.not_before = child.started + child.delay
        child.delay = min(child.delay * 2, LONGEST_DELAY)
        return
    child.trouble = ""
    child.starts += 1


def _spawn(child: _Child, paths: Paths) -> subprocess.Popen[bytes]:
    paths.logs.mkdir(parents=True, exist_ok=True)
    with (paths.logs / f"{child.component.name}.log").open("ab", buffering=0) as log:
        log.write(f"--- start {child.starts + 1}: {' '.join(child.component.argv)}\n".encode())
        return subprocess.Popen(
            child.component.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _check_health(child: _Child) -> None:
    while True:
        if child.process is not None:
            try:
                healthy = child.component.healthy()
            except OSError:  # the machine has no descriptor or memory left for asking
                healthy = False
            child.healthy = healthy and child.process is not None
        time.sleep(1.0 if child.healthy else 0.2)


def _publish(children: dict[str, _Child], paths: Paths) -> None:
    told = {
        name: {
            "pid": child.process.pid if child.process else None,
            "starts": child.starts,
            "healthy": child.healthy,
            "last_exit": child.last_exit,
            "paused": child.process is not None and _is_stopped(child.process.pid),
            "trouble": child.trouble,
        }
        for name, child in children.items()
    }
    scratch = paths.status.with_suffix(".new")
    scratch.write_text(json.dumps(told))
    scratch.rename(paths.status)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return False


def launch(paths: Paths) -> int:
    """From the host: start the node in new namespaces; the keeper process's id."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    isolated = ["--mount", "--propagation", "slave", "--net", "--pid", "--uts", "--fork", "--kill-child", "--wd=/"]
    log = str(paths.logs / "node.log")
    return os.posix_spawnp(  # and not Popen, which wants its child awaited
        "unshare",
        ["unshare", *isolated, *own_command(paths, "node")],
        without_proxies(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def find() -> tuple[int, Path] | None:
    """The running node's first process and the directory it serves, whoever started it."""
    for pid in cgroups.components():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "internal" in command and command[command.index("internal") + 1] == "node":
            return pid, Path(command[command.index("--home") + 1])
    return None

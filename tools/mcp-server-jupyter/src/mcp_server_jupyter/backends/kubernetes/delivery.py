"""How the agent comes into its place: its files, and what it is told there."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .host import AGENT_PORT, CHANNEL_PORTS, Keys, Launch

ENTRY = "backends/kubernetes/agent/__main__.py"
"""What `python3 -I` runs, below the folder that the files are delivered into."""

_AGENT = ("__init__", "__main__", "agent", "channels", "commands", "process", "protocol", "record")
_SEGMENT_BYTES, _SEGMENTS = 32 << 20, 8
# A server says something every half minute.
_LEAST_ORPHAN_SECONDS = 120.0


def agent_files() -> dict[str, str]:
    """The agent's files: their text by their path below one folder. The same for every kernel of one version."""
    root = importlib.resources.files("mcp_server_jupyter")
    names = [f"backends/kubernetes/agent/{name}.py" for name in _AGENT] + ["backends/shared/recording.py"]
    return {name: root.joinpath(name).read_text(encoding="utf-8") for name in names}


def agent_config(
    keys: Keys,
    launch: Launch,
    *,
    lease: int,
    folder: str,
    record: str,
    orphan_seconds: float,
    grace_seconds: float = 8.0,
    record_bytes: int = _SEGMENTS * _SEGMENT_BYTES,
    last_word: str = "/dev/termination-log",
    ip: str = "*",
    ports: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What AGENT.json holds. It has the keys: for a Secret, and for memory.

    Args:
        keys: of this kernel.
        launch: what is started first.
        lease: the Lease's number of the server that makes it.
        folder: in memory, as it holds the kernel's connection file, short, so that its ipc sockets fit, and there.
        record: a folder on disk for the stream; made if it is missing.
        orphan_seconds: how long an idle kernel goes on without a server; at least two minutes.
        grace_seconds: how long the kernel may take to end after SIGTERM. Kubernetes has to allow two more.
        record_bytes: the stream keeps; its volume has to allow a tenth more.
        last_word: a file for how the kernel ended, one JSON object; "" for none. In a pod the status shows it.
        ip: to listen on; "*" is every address.
        ports: by channel, and of the `agent`; absent, the ones every pod has.
    """
    segment = max(record_bytes // _SEGMENTS, 1 << 12)
    return {
        "key": keys.key,
        "curve_publickey": keys.public,
        "curve_secretkey": keys.secret,
        "launch": asdict(launch),
        "lease": lease,
        "ip": ip,
        "ports": {**CHANNEL_PORTS, "agent": AGENT_PORT, **(ports or {})},
        "folder": folder,
        "record": record,
        "segment_bytes": segment,
        "segments": _SEGMENTS,
        "max_message_bytes": 128 << 20,
        "orphan_seconds": max(orphan_seconds, _LEAST_ORPHAN_SECONDS),
        "grace_seconds": grace_seconds,
        "last_word": last_word,
        "control_groups": "/proc/self/cgroup",
        "group_root": "/sys/fs/cgroup",
    }

"""The agent's stream: bounded, and the same bytes from every place that is still there."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.backends.kubernetes.agent import record as module
from mcp_server_jupyter.backends.kubernetes.agent.protocol import NAMES
from mcp_server_jupyter.backends.kubernetes.agent.record import Batch, Record
from mcp_server_jupyter.backends.shared import recording


def read_all(record: Record, start: int, piece: int = 7) -> bytes:
    found = b""
    while start + len(found) < record.end:
        part = record.read(start + len(found), piece)
        assert part
        found += part
    return found


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=60), st.integers(1, 64))
def test_what_is_kept_reads_as_it_was_written_and_begins_at_a_whole_one(parts: list[bytes], piece: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = Record(folder, 100, 4)
        whole, starts = b"", [0]
        for part in parts:
            assert record.append([part])
            whole += part
            starts.append(len(whole))
            assert record.end == len(whole)
            assert record.first in starts
            assert record.end - record.first <= 400
        assert read_all(record, record.first, piece) == whole[record.first :]
        files = [name for name in os.listdir(folder)]
        assert sum((Path(folder) / name).stat().st_size for name in files) <= 400


def test_a_record_over_the_bounds_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    record = Record(str(tmp_path), 100, 4)
    assert record.append([b"a" * 50])
    assert not record.append([b"b" * 201])
    assert record.append([b"c" * 200])
    assert read_all(record, 0) == b"a" * 50 + b"c" * 200


def test_what_an_earlier_agent_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "stream.0").write_bytes(b"old")
    record = Record(str(tmp_path), 100, 4)

    assert (record.first, record.end, os.listdir(tmp_path)) == (0, 0, [])


def test_where_the_disk_takes_no_more_memory_does_within_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(str(tmp_path), 1000, 4)
    assert record.append([b"on disk "])
    full = OSError(28, "No space left on device")
    room = os.pwrite

    def refuse(*_: object) -> int:
        raise full

    monkeypatch.setattr(module.os, "pwrite", refuse)
    monkeypatch.setattr(module, "_MEMORY_SEGMENT", 100)
    for number in range(5):
        assert record.append([b"%04d" % number * 20])
    assert read_all(record, 0) == b"on disk " + b"".join(b"%04d" % number * 20 for number in range(5))
    for number in range(5, 40):
        assert record.append([b"%04d" % number * 20])
    assert record.end - record.first <= 100 * module._MEMORY_SEGMENTS
    assert read_all(record, record.first).endswith(b"0039" * 20)
    monkeypatch.setattr(module.os, "pwrite", room)
    assert record.append([b"back on disk"])
    assert read_all(record, record.first).endswith(b"back on disk")


@pytest.mark.parametrize("big", [30_000, 300_000])
def test_what_is_too_big_is_said_to_be_left_out_where_it_would_have_been(tmp_path: Path, big: int) -> None:
    record = Record(str(tmp_path), 10_000, 3)
    batch = Batch(record)
    batch.put("iopub", [b"before"])
    batch.put("iopub", [b"x" * big])
    batch.put("shell", [b"after"])
    assert record.end == 0
    batch.write()

    bodies = [body for _, body in recording.records(read_all(record, 0, 1 << 20))]
    assert [NAMES[body[:1]] for body in bodies] == ["iopub", "event", "shell"]
    before, [told], after = (recording.frames(body[1:]) for body in bodies)
    assert (before, after) == ([b"before"], [b"after"])
    assert json.loads(told)["event"] == "dropped"
    assert json.loads(told)["bytes"] > big

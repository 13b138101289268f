"""Logs: one bounded event a record, and never a failure of whoever writes one."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter import logs
from mcp_server_jupyter.settings import Settings

NAME = "mcp_server_jupyter.tests"


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """The logging of the tests as it was."""
    root, ours = logging.getLogger(), logging.getLogger("mcp_server_jupyter")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def configured(folder: Path, **options: Any) -> logging.Logger:
    logs.configure(Settings.load({"root": folder, "state_dir": folder / "state", **options}, {}))
    return logging.getLogger(NAME)


def crash(depth: int, secret: str) -> None:
    if depth:
        crash(depth - 1, secret)
    raise ValueError("the cause")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_crash_is_logged_without_anybodys_data_and_bounded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], as_json: bool
) -> None:
    logger = configured(tmp_path, log_json=as_json)
    try:
        crash(400, "atad"[::-1] * 1_000)
    except ValueError:
        logger.exception("failed")
    written = capfd.readouterr().err
    assert "ValueError: the cause" in written
    assert "datadata" not in written
    assert len(written) < 2 * logs.MAX_CHARS
    if as_json:
        assert json.loads(written)["event"] == "failed"


def test_a_message_without_end_is_cut(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path, log_json=True).warning("x" * 1_000_000)
    written = capfd.readouterr().err
    assert len(json.loads(written)["event"]) < 1.1 * logs.MAX_CHARS


def test_a_record_is_written_although_nothing_can_be_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = configured(tmp_path)
    real = builtins.__import__

    def exhausted(name: str, *args: Any) -> Any:
        if name == "structlog":
            raise OSError(24, "Too many open files")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", exhausted)
    logger.warning("still said")
    assert capfd.readouterr().err == "WARNING still said\n"

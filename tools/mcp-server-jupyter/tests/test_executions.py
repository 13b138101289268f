"""Executions when something beneath them fails."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.frontends._bind import invoke
from mcp_server_jupyter.journal import Journal
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_journal_that_fails_is_told_and_the_queue_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").mkdir()
    options = {"root": tmp_path / "root", "state_dir": tmp_path / "state", "kernels": "memory", "notebook": "a.ipynb"}
    async with open_services(Settings.load(options, {})) as services:
        await invoke(services, "execute_code", {"code": "x = 1"}, author="tester")

        def fail(*_: object, **__: object) -> None:
            raise Unavailable("The disk is full.", hint="Free some space.")

        with monkeypatch.context() as broken, anyio.fail_after(5):
            broken.setattr(Journal, "update_execution", fail)
            answer = await invoke(services, "execute_code", {"code": "x + 1"}, author="tester")
            assert answer.data["status"] == "lost"
            assert "The disk is full. Free some space." in answer.text
        with anyio.fail_after(5):
            assert "2" in (await invoke(services, "execute_code", {"code": "x + 1"}, author="tester")).text

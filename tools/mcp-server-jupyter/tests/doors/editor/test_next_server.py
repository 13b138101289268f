"""Windows and the server that comes after one that was killed: whose notebook it is, and who writes its file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import pytest

from editor_window import open_window
from http_app import notebook, open_app
from mcp_server_jupyter.backends.live import windows
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


async def killed_in_mid_cell(folder: Path) -> Path:
    """The folder of a server whose window w1 has run a cell that waits, with the state as a kill would leave it."""
    async with open_app(folder) as app:
        (folder / "root" / "a.ipynb").write_text(notebook("print('begun')\ninput()", "x = 1"))
        async with open_window(app) as window:
            assert (await window.say("open", path="a.ipynb", dirty=False))["owner"] == "w1"
            await window.run("print('begun')\ninput()")
            await window.next("execution", status="waiting_input")
            left = folder / "left"
            left.mkdir()
            shutil.copytree(folder / "root", left / "root")
            shutil.copytree(folder / "state", left / "state", ignore=shutil.ignore_patterns("*.sock"))
            _move_state(folder / "state", left)
    return left


def _move_state(before: Path, left: Path) -> None:
    """A root's state is found by its path: the copied one is to be that of the copied root."""

    def state(root: Path, state_dir: Path) -> Path:
        return Settings.load({"root": root, "state_dir": state_dir}, environ={}).root_state

    copied = left / "state" / state(before.parent / "root", before).relative_to(before)
    copied.rename(state(left / "root", left / "state"))


async def test_the_next_server_gives_a_notebook_back_and_leaves_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "AWAY_SECONDS", 1_000)
    left = await killed_in_mid_cell(tmp_path)
    file = left / "root" / "a.ipynb"
    as_it_was = file.read_bytes()
    async with open_app(left) as app, open_window(app) as window:
        assert window.events[0][1]["leases"] == [{"path": "a.ipynb", "owner": "w1"}]
        given = json.loads(as_it_was)
        given["cells"][1]["source"] = "x = 2  # typed"
        answer = await window.say("open", path="a.ipynb", dirty=True, notebook=given)
        assert answer["owner"] == "w1"
        (told,) = answer["ops"]
        assert (told["op"], told["id"]) == ("outputs", "c0")
        assert "The kernel ended" in told["outputs"][-1]["evalue"]
        assert (await app.services.contents.read("a.ipynb")).cells[1].source == "x = 2  # typed"
        assert file.read_bytes() == as_it_was
        await window.say("close", path="a.ipynb")
        assert "The kernel ended" in file.read_text()
        assert "typed" not in file.read_text()
        assert app.services.journal.leases() == {}


async def test_where_the_window_does_not_come_the_file_is_written_once_and_by_nobody_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await killed_in_mid_cell(tmp_path)
    file = left / "root" / "a.ipynb"
    monkeypatch.setattr(windows, "AWAY_SECONDS", 0.05)
    async with open_app(left) as app:
        with anyio.fail_after(30):
            await app.services.contents.flush("a.ipynb", urgent=False)
        assert "The kernel ended" in file.read_text()
    written = file.read_bytes()
    async with open_app(left) as app:
        assert app.services.journal.leases() == {}
        assert app.services.journal.undelivered() == []
    assert file.read_bytes() == written


async def test_another_window_inherits_from_one_that_does_not_come_to_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await killed_in_mid_cell(tmp_path)
    monkeypatch.setattr(windows, "AWAY_SECONDS", 1_000)
    async with open_app(left) as app, open_window(app, "w2") as window:
        assert (await window.say("open", path="a.ipynb", dirty=False))["owner"] == "w1"
        async with open_window(app) as first:
            await first.say("close", path="a.ipynb")
        assert (await window.next("lease", owner="w2"))["path"] == "a.ipynb"
        (told,) = (await window.say("open", path="a.ipynb", dirty=False))["ops"]
        assert "The kernel ended" in told["outputs"][-1]["evalue"]
        assert app.services.journal.leases() == {"a.ipynb": "w2"}

"""What a person saves is told without a call, once, and our own writes are not told as theirs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import contents as files
from mcp_server_jupyter.backends.files import watch
from mcp_server_jupyter.settings import Settings

FIXTURES = Path(__file__).parents[2] / "fixtures"
pytestmark = pytest.mark.anyio
SOON = 60.0
"""Seconds until a change must have been told; measured quiet, it takes 0.15."""


@pytest.fixture
async def contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[files.FilesContents]:
    monkeypatch.setattr(watch, "START_SECONDS", 0.0)
    async with files.open_contents(Settings.load({"root": str(tmp_path)}, {})) as opened:
        yield opened


def put(folder: Path, name: str = "a.ipynb") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(FIXTURES / "modern.ipynb", folder / name))


def save(path: Path, text: str) -> None:
    """As editors do: beside it, then renamed."""
    temp = path.with_suffix(".new")
    temp.write_text(path.read_text().replace("range(3)", text))
    temp.replace(path)


async def told(changes: AsyncIterator[str]) -> str:
    with anyio.fail_after(SOON):
        return await anext(changes)


async def nothing_more(contents: Any, folder: Path, changes: AsyncIterator[str]) -> None:
    """The next thing told is a notebook that was saved last of all."""
    put(folder, "last.ipynb")
    assert await told(changes) == "last.ipynb"


async def watched(contents: Any, folder: Path) -> AsyncIterator[str]:
    """A subscription, from when the watching has begun."""
    changes: AsyncIterator[str] = contents.changes()
    for name in ("first.ipynb", "second.ipynb"):  # what was there a moment before may be told with the first
        put(folder, name)
        while await told(changes) != name:
            pass
    return changes


async def test_a_save_is_told_once_and_merged_without_a_call(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    await contents.read("a.ipynb")
    changes = await watched(contents, tmp_path)
    save(path, "range(9)")
    assert await told(changes) == "a.ipynb"
    state = contents._open[path]
    assert "range(9)" in state.notebook.cells[2].source
    await nothing_more(contents, tmp_path, changes)


async def test_each_of_several_saves_is_told(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    changes = await watched(contents, tmp_path)
    for number in range(5):
        save(path, f"range({number})")
        assert await told(changes) == "a.ipynb"


async def test_a_save_in_place_a_new_notebook_and_a_deleted_one_are_told(contents: Any, tmp_path: Path) -> None:
    path = put(tmp_path)
    await contents.read("a.ipynb")
    changes = await watched(contents, tmp_path)
    async with await anyio.open_file(path, "a") as file:
        await file.write("\n")
        await file.flush()
        assert await told(changes) == "a.ipynb"
    put(tmp_path, "new.ipynb")
    assert await told(changes) == "new.ipynb"
    path.unlink()
    assert await told(changes) == "a.ipynb"


async def test_notebooks_in_folders_made_later_are_told(contents: Any, tmp_path: Path) -> None:
    changes = await watched(contents, tmp_path)
    path = put(tmp_path / "new" / "deep")
    assert await told(changes) == "new/deep/a.ipynb"
    save(path, "range(9)")
    assert await told(changes) == "new/deep/a.ipynb"
    (tmp_path / "new").rename(tmp_path / "moved")
    path = tmp_path / "moved" / "deep" / "a.ipynb"
    while (told_now := await told(changes)) == "new/deep/a.ipynb":
        pass  # which is gone
    assert told_now == "moved/deep/a.ipynb"
    save(path, "range(10)")
    assert await told(changes) == "moved/deep/a.ipynb"


async def test_what_we_write_is_told_once(contents: Any, tmp_path: Path) -> None:
    put(tmp_path)
    changes = await watched(contents, tmp_path)
    for durable in (True, False):
        async with contents.edit("a.ipynb", durable=durable) as notebook:
            notebooks.replace_source(notebook, 1, f"ours {durable}")
        await contents.flush()
        assert await told(changes) == "a.ipynb"
    await contents.create("b.ipynb", notebooks.new_notebook("python3"))
    assert await told(changes) == "b.ipynb"
    await nothing_more(contents, tmp_path, changes)


async def test_hidden_files_environments_and_other_files_are_not_told(contents: Any, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    for name in (".ipynb_checkpoints", "node_modules", ".git"):
        (tmp_path / name).mkdir()
    changes = await watched(contents, tmp_path)
    for name in (".ipynb_checkpoints", "node_modules", ".git", "env"):
        put(tmp_path / name)
    put(tmp_path, ".hidden.ipynb")
    (tmp_path / "data.csv").write_text("1")
    await nothing_more(contents, tmp_path, changes)


async def test_where_the_system_cannot_watch_it_is_logged_and_calls_still_notice(
    contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path)
    await contents.read("a.ipynb")
    tried = anyio.Event()

    def refuse(folders: Any) -> Any:
        anyio.from_thread.run_sync(tried.set)
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watch, "_open_watcher", refuse)
    changes = contents.changes()
    with anyio.fail_after(SOON):
        await tried.wait()
    save(path, "range(9)")
    assert "range(9)" in (await contents.read("a.ipynb")).cells[2].source
    assert await told(changes) == "a.ipynb"
    with anyio.fail_after(SOON):
        while "watch limit" not in caplog.text:
            await anyio.lowlevel.checkpoint()


async def test_a_save_that_cannot_be_taken_in_does_not_end_the_watching(
    contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path)
    await contents.read("a.ipynb")

    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(contents._open[path], "look", fail)
    changes = await watched(contents, tmp_path)
    save(path, "range(9)")
    await nothing_more(contents, tmp_path, changes)
    assert "a.ipynb" in caplog.text


async def test_more_folders_than_are_watched_are_said_and_the_nearest_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "MAX_FOLDERS", 3)
    for name in ("a/deep", "b", "c"):
        (tmp_path / name).mkdir(parents=True)
    assert watch._folders(tmp_path) == [tmp_path, tmp_path / "a", tmp_path / "b"]
    assert "only the first 3 folders" in caplog.text


async def test_nobody_watches_before_somebody_wants_to_know_and_nobody_after_the_end(tmp_path: Path) -> None:
    """A server that is asked nothing does not even load the library."""
    code = """
import sys, threading, anyio
from mcp_server_jupyter.backends.files import open_contents, watch
from mcp_server_jupyter.settings import Settings
watch.START_SECONDS = 0.0

async def main():
    async with open_contents(Settings.load({"root": sys.argv[1]}, {})) as contents:
        assert "watchfiles" not in sys.modules
        changes = contents.changes()
        with anyio.fail_after(60):
            while "watchfiles" not in sys.modules:
                await anyio.sleep(0.01)
    with anyio.fail_after(60):
        assert [path async for path in changes] == []

anyio.run(main)
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(2)
print(threading.active_count())
"""
    done = await anyio.run_process([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (done.returncode, done.stdout) == (0, b"1\n"), done.stderr

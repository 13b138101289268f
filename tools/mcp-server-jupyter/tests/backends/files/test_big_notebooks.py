"""Big notebooks: read and written in bites, so that no other thread waits long; written when edits pause."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import contents as files
from mcp_server_jupyter.backends.files import disk, json_scan, json_text
from mcp_server_jupyter.backends.files import notebook as notebook_module
from mcp_server_jupyter.backends.files import text as notebook_text
from mcp_server_jupyter.errors import InvalidNotebook, Unavailable
from mcp_server_jupyter.settings import Settings

LONGEST_STEP = 2.0
"""As a multiple of what reading it in one go takes, in C: some 7 ms of 12 where this was written."""


def a_notebook(*texts: Any) -> dict[str, Any]:
    cells = [
        {
            "cell_type": "code",
            "execution_count": 1,
            "id": f"c{number}",
            "metadata": {},
            "outputs": [{"output_type": "stream", "name": "stdout", "text": text}],
            "source": "x",
        }
        for number, text in enumerate(texts)
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def cpu_seconds(work: Callable[[], object]) -> float:
    """The least of a few times: a machine that is shared may count its other guests' time as ours."""

    def once() -> float:
        begun = time.thread_time()
        work()
        return time.thread_time() - begun

    return min(once() for _ in range(3))


def has_short_steps(work: Callable[[], object], most: float) -> bool:
    """Whether it has none of more than so many seconds, in one of a few runs: see `cpu_seconds`."""
    return any(longest_step(work) < most for _ in range(3))


def longest_step(work: Callable[[], object]) -> float:
    """The most CPU seconds between two lines of Python: so long no other thread has its turn. Load does not count."""
    longest = 0.0
    before = time.thread_time()

    def step(*_: Any) -> Any:
        nonlocal longest, before
        longest = max(longest, time.thread_time() - before)
        before = time.thread_time()
        return step

    gc.disable()  # what it takes is for everything the tests hold
    sys.settrace(step)
    try:
        work()
    finally:
        sys.settrace(None)
        gc.enable()
    return longest


LINE = "x" * 90 + ' \\"quoted\\" \u001b[0m\n'
BIG = {
    "one string": [LINE * 60_000],
    "a list of lines": [[LINE] * 60_000],
}


@pytest.mark.parametrize("texts", BIG.values(), ids=BIG)
def test_no_step_of_reading_or_writing_6_mb_takes_long(texts: list[Any]) -> None:
    data = json.dumps(a_notebook(*texts), indent=1).encode()
    assert len(data) > 6e6
    most = LONGEST_STEP * cpu_seconds(lambda: json.loads(data))
    document = notebook_text.parse(data)
    assert has_short_steps(lambda: notebook_text.parse(data, document), most)
    assert has_short_steps(lambda: document.holds(data), most)
    notebook = notebooks.shallow(document.notebook, cells=list(document.notebook.cells))
    notebooks.replace_source(notebook, 0, "changed")
    assert has_short_steps(lambda: notebook_text.splice(document, notebook), most)
    output = {"output_type": "stream", "name": "stdout", "text": "new\n" + LINE * 60_000}
    notebooks.set_outputs(notebook, 0, [notebooks.node(output)], 2)
    assert has_short_steps(lambda: notebook_text.splice(document, notebook), most)


pieces = st.sampled_from(
    ["a", "\n", '\\"', "\\\\", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "é", "😀", "/", "\\n"]
)
strings = st.lists(pieces, max_size=12).map(lambda parts: '"' + "".join(part for part in parts if part != "\n") + '"')
lists = st.lists(strings | st.sampled_from(["1", "null", "{}", "[]", '["a"]']), max_size=5)
spaces = st.sampled_from(["", " ", "\n", "\n  ", "\r\n "])


@st.composite
def json_lists(draw: Any) -> str:
    found = draw(lists)
    inner = ",".join(draw(spaces) + item + draw(spaces) for item in found)
    return f"[{inner}{draw(spaces)}]" + draw(st.sampled_from(["", " x", ",\n1]", "\n}", "]"]))


@settings(max_examples=600)
@given(strings.map(lambda text: text + " x") | json_lists(), st.integers(1, 9))
def test_values_scanned_in_bites_are_those_scanned_at_once(text: str, bite: int) -> None:
    plain = json_scan.plain_scanner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "BITE", bite + 12)
        found = json_scan._Gentle(plain, dict).scan(text, 0)
    assert found == plain(text, 0)


@settings(max_examples=300)
@given(
    st.text(st.characters() | st.sampled_from('\n\r"\\\ud800\udc00\u2028é😀'), max_size=60),
    st.booleans(),
    st.integers(1, 9),
)
def test_strings_written_in_bites_are_those_written_at_once(text: str, ascii_only: bool, bite: int) -> None:
    style = json_text.Style(ascii_only=ascii_only)
    quoted, lines = style.quote(text), text.splitlines(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "BITE", bite)
        assert style.quote(text) == quoted
        assert list(json_text._lines(text)) == lines


@pytest.mark.parametrize("end", ["", '"', "]", "}", ",", "\\", '\\u12"', '"]', '",]'])
@pytest.mark.parametrize("begin", ['["a",\n"', '"', '["a",\n', "[", '{"a":\n["b"\n', '[{"a": "'])
def test_what_ends_too_early_is_no_value_however_it_is_scanned(begin: str, end: str) -> None:
    text = begin + "x" * 50 + end
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "BITE", 16)
        for scan in (json_scan.plain_scanner(), json_scan._Gentle(json_scan.plain_scanner(), dict).scan):
            try:
                results.append(scan(text, 0))
            except (ValueError, StopIteration):
                results.append(None)
    assert results[0] == results[1]


def test_a_big_file_that_is_broken_is_refused() -> None:
    data = json.dumps(a_notebook(LINE * 20_000), indent=1).encode()
    for broken in (data[:-10], data.replace(b'"stream"', b"stream"), data[:1_500_000], data.replace(b"]", b",]")):
        with pytest.raises(InvalidNotebook):
            notebook_text.parse(broken)


# --------------------------------------------------------------------------- when it is written


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a file was replaced."""
    found: list[float] = []
    replace = disk.replace

    def counted(*args: Any, **how: Any) -> Any:
        found.append(time.monotonic())
        return replace(*args, **how)

    monkeypatch.setattr(disk, "replace", counted)
    return found


async def append(contents: Any, text: str) -> None:
    async with contents.edit("a.ipynb", durable=False) as notebook:
        notebooks.insert_cell(notebook, -1, notebooks.new_cell("code", text))


@pytest.mark.anyio
async def test_edits_in_a_row_of_a_notebook_that_is_costly_to_write_are_written_together_and_soon(
    tmp_path: Path, writes: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook_module, "INLINE_BYTES", 0)
    replace = disk.replace

    def slow(*args: Any, **how: Any) -> Any:
        time.sleep(0.1)
        return replace(*args, **how)

    monkeypatch.setattr(disk, "replace", slow)
    (tmp_path / "a.ipynb").write_text(json.dumps(a_notebook("x")))
    async with files.open_contents(Settings.load({"root": str(tmp_path)}, {})) as contents:
        await append(contents, "first")
        await contents.flush(urgent=False)
        writes.clear()
        for number in range(20):
            await append(contents, f"{number}")
            await anyio.sleep(0.03)
        with anyio.fail_after(60):
            await contents.flush("a.ipynb", urgent=False)
        assert 1 <= len(writes) <= 4
        assert len(json.loads((tmp_path / "a.ipynb").read_text())["cells"]) == 22


@pytest.mark.anyio
async def test_those_in_no_hurry_hear_of_a_disk_that_cannot_write_and_the_next_try_writes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(a_notebook("x")))
    async with files.open_contents(Settings.load({"root": str(tmp_path)}, {})) as contents:
        await append(contents, "one")

        def full(*args: Any, **how: Any) -> Any:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, anyio.fail_after(60):
            patch.setattr(disk, "replace", full)
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(_is_refused, contents)
        await append(contents, "two")
        with anyio.fail_after(60):
            await contents.flush("a.ipynb", urgent=False)
    assert [cell["source"] for cell in json.loads(path.read_text())["cells"]] == ["x", ["one"], ["two"]]


async def _is_refused(contents: Any) -> None:
    with pytest.raises(Unavailable, match="space"):
        await contents.flush("a.ipynb", urgent=False)


@pytest.mark.anyio
async def test_everybody_in_no_hurry_hears_that_the_file_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(a_notebook("x")))
    heard: list[str] = []

    async def wait(contents: Any) -> None:
        try:
            await contents.flush("a.ipynb", urgent=False)
        except notebook_module.NotFound as error:
            heard.append(error.message)

    async with files.open_contents(Settings.load({"root": str(tmp_path)}, {})) as contents:
        await append(contents, "lost")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(wait, contents)
                await anyio.lowlevel.checkpoint()
                path.unlink()
        assert len(heard) == 3
        await contents.flush()


@pytest.mark.anyio
async def test_somebody_in_no_hurry_does_not_wait_for_edits_that_come_after(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text(json.dumps(a_notebook("x")))

    async def keep_editing(contents: Any) -> None:
        while True:
            await append(contents, "more")
            await anyio.sleep(0.01)

    opened = files.open_contents(Settings.load({"root": str(tmp_path)}, {}))
    async with opened as contents, anyio.create_task_group() as tasks:
        await append(contents, "one")
        tasks.start_soon(keep_editing, contents)
        with anyio.fail_after(60):
            await contents.flush("a.ipynb", urgent=False)
        tasks.cancel_scope.cancel()

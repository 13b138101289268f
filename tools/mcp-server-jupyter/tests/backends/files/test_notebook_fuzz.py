"""Notebooks of any layout, broken files, and many writers at once: nothing is lost, doubled or damaged."""

from __future__ import annotations

import json
import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.files import contents as files
from mcp_server_jupyter.backends.files import text as notebook_text
from mcp_server_jupyter.errors import InvalidNotebook
from mcp_server_jupyter.settings import Settings

FIXTURES = Path(__file__).parents[2] / "fixtures"
pytestmark = pytest.mark.long

# --------------------------------------------------------------------------- layouts

text = st.text(max_size=30)
lines = st.lists(st.text(max_size=20).map(lambda line: line + "\n"), max_size=4)
either = text | lines
leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    leaf, lambda below: st.lists(below, max_size=3) | st.dictionaries(text, below, max_size=3), max_leaves=8
)
metadata = st.dictionaries(text, values, max_size=3)
bundle = st.dictionaries(st.sampled_from(["text/plain", "text/html", "image/png", "image/svg+xml"]), either, max_size=3)
outputs = st.lists(
    st.fixed_dictionaries({"output_type": st.just("stream"), "name": st.just("stdout"), "text": either})
    | st.fixed_dictionaries({"output_type": st.just("display_data"), "data": bundle, "metadata": metadata})
    | st.fixed_dictionaries(
        {"output_type": st.just("error"), "ename": text, "evalue": text, "traceback": st.lists(text)}
    ),
    max_size=3,
)
code = st.fixed_dictionaries(
    {"cell_type": st.just("code"), "metadata": metadata, "source": either, "outputs": outputs},
    optional={"execution_count": st.none() | st.integers(0, 99), "id": st.sampled_from("abcdef"), "extra": values},
)
markdown = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["markdown", "raw"]), "source": either},
    optional={"metadata": metadata, "attachments": st.dictionaries(text, bundle, max_size=2)},
)
notebook_values = st.fixed_dictionaries(
    {
        "cells": st.lists(code | markdown, max_size=5),
        "metadata": metadata,
        "nbformat": st.just(4),
        "nbformat_minor": st.integers(0, 5),
    }
)


def scatter(value: Any, rng: random.Random, ascii_only: bool) -> str:
    """JSON with any white space between any tokens."""
    space = lambda: "".join(rng.choices(" \t\n\r", k=rng.choice((0, 0, 0, 1, 3))))  # noqa: E731
    if isinstance(value, dict):
        members = [
            f"{space()}{json.dumps(key, ensure_ascii=ascii_only)}{space()}:{space()}{scatter(below, rng, ascii_only)}"
            for key, below in rng.sample(list(value.items()), len(value))
        ]
        return "{" + f"{space()},".join(members) + space() + "}"
    if isinstance(value, list):
        return "[" + ",".join(space() + scatter(below, rng, ascii_only) + space() for below in value) + space() + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


layouts = st.one_of(
    st.builds(
        lambda indent, ascii_only: partial(json.dumps, indent=indent, ensure_ascii=ascii_only),
        st.sampled_from([None, 0, 1, 2, 4, "\t"]),
        st.booleans(),
    ),
    st.just(partial(json.dumps, separators=(",", ":"), ensure_ascii=False)),
    st.builds(lambda seed, only: lambda value: scatter(value, random.Random(seed), only), st.integers(), st.booleans()),
)
files_of = st.builds(lambda value, layout: (value, layout(value).encode()), notebook_values, layouts)


def without(cells: list[Any], index: int) -> list[Any]:
    return cells[:index] + cells[index + 1 :]


def joined(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)


def edit(document: Any, change: Any) -> Any:
    copy = notebooks.shallow(document.notebook, cells=list(document.notebook.cells))
    copy["metadata"] = notebooks.shallow(document.notebook.metadata)
    change(copy)
    return notebook_text.splice(document, notebooks.settle(copy, document.notebook.cells))


@settings(max_examples=300)
@given(files_of)
def test_any_layout_is_read_whole_and_written_back_byte_for_byte(file: tuple[Any, bytes]) -> None:
    value, data = file
    document = notebook_text.parse(data)
    assert document.data() == data
    assert [cell.source for cell in document.notebook.cells] == [joined(cell["source"]) for cell in value["cells"]]
    rewritten = edit(document, lambda nb: nb.cells.__setitem__(slice(None), [notebooks.shallow(c) for c in nb.cells]))
    assert rewritten.data() == data


@settings(max_examples=300)
@given(files_of, st.integers(0, 4), text, outputs)
def test_an_edit_changes_the_bytes_of_its_cell_only(
    file: tuple[Any, bytes], index: int, source: str, new_outputs: list[Any]
) -> None:
    value, data = file
    document = notebook_text.parse(data)
    if index >= len(document.pieces):
        return

    def change(notebook: Any) -> None:
        notebooks.replace_source(notebook, index, source)
        if notebook.cells[index].cell_type == "code":
            notebooks.set_outputs(notebook, index, new_outputs, 7)

    after = edit(document, change)
    assert [piece.raw for piece in without(list(after.pieces), index)] == [
        piece.raw for piece in without(list(document.pieces), index)
    ]
    assert (after.head, after.tail, after.close) == (document.head, document.tail, document.close)
    assert_is(after, value, {index: after.notebook.cells[index]})
    if isinstance(value["cells"][index]["source"], str):
        assert json.loads(after.data())["cells"][index]["source"] == source


@settings(max_examples=300)
@given(
    files_of, st.lists(st.tuples(st.sampled_from("idm"), st.integers(0, 9), st.integers(0, 9)), max_size=6), metadata
)
def test_cells_that_are_moved_or_stay_keep_their_bytes(
    file: tuple[Any, bytes], script: list[tuple[str, int, int]], new_metadata: Any
) -> None:
    _, data = file
    document = notebook_text.parse(data)

    def change(notebook: Any) -> None:
        for kind, one, two in script:
            count = len(notebook.cells)
            if kind == "i":
                notebooks.insert_cell(notebook, one % (count + 1), notebooks.new_cell("code", f"new {one}\n{two}"))
            elif count and kind == "d":
                notebooks.delete_cell(notebook, one % count)
            elif count:
                notebooks.move_cell(notebook, one % count, two % count)
        for key, below in new_metadata.items():
            notebook.metadata[key] = below

    after = edit(document, change)
    raw = {piece.cell.id: piece.raw for piece in document.pieces}
    for piece in after.pieces:
        assert piece.raw == raw.get(piece.cell.id, piece.raw)
    written = json.loads(after.data())
    assert [joined(cell["source"]) for cell in written["cells"]] == [cell.source for cell in after.notebook.cells]
    assert written["metadata"] == {**json.loads(data)["metadata"], **new_metadata}
    reread = notebook_text.parse(after.data(), after)
    assert [cell.source for cell in reread.notebook.cells] == [cell.source for cell in after.notebook.cells]
    raws = [piece.raw for piece in after.pieces]
    for now, then in zip(reread.pieces, after.pieces, strict=True):
        assert now.cell is then.cell or raws.count(then.raw) > 1


def assert_is(document: Any, value: Any, changed: dict[int, Any]) -> None:
    """The bytes hold the value, with some cells changed."""
    written = json.loads(document.data())
    assert {key: written[key] for key in written if key != "cells"} == {k: value[k] for k in value if k != "cells"}
    for index, (ours, theirs) in enumerate(zip(written["cells"], value["cells"], strict=True)):
        if index not in changed:
            assert ours == theirs
            continue
        cell = notebook_text.parse(json.dumps({**value, "cells": [ours]}).encode()).notebook.cells[0]
        assert {k: cell[k] for k in cell if k != "id"} == {k: v for k, v in changed[index].items() if k != "id"}


# --------------------------------------------------------------------------- broken files

SEEDS = [path.read_bytes() for path in sorted(FIXTURES.glob("*.ipynb"))]


@st.composite
def broken(draw: Any) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 40))
        data[start:end] = draw(
            st.binary(max_size=6)
            | st.sampled_from([b"", b"null", b"{}", b"[]", b'"', b",", b"1e999", b"NaN", b"\\ud800"])
        )
    return bytes(data)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(broken())
@example(b"[" * 200_000)
@example(b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": ' + b"[" * 200_000)
@example(b'{"nbformat": 4, "metadata": {"a": ' + b"9" * 5_000 + b'}, "cells": []}')
def test_a_broken_file_is_refused_or_edited_without_damage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(data)
    os.utime(path, (1, 1))

    async def work() -> None:
        async with files.open_contents(Settings(root=tmp_path)) as contents:
            try:
                before = await contents.read("a.ipynb")
            except InvalidNotebook:
                assert path.read_bytes() == data
                return
            try:
                async with contents.edit("a.ipynb") as notebook:
                    notebooks.insert_cell(notebook, 0, notebooks.new_cell("code", "x = 1"))
            except InvalidNotebook:
                assert path.read_bytes() == data
                return
            async with contents.edit("a.ipynb") as notebook:
                notebooks.delete_cell(notebook, 0)
            if len(before.cells) > 1:
                assert path.read_bytes() == data

    anyio.run(work)


# --------------------------------------------------------------------------- many writers

EDITS = 1_000

_PERSON = """
import fcntl, json, os, random, sys, time
path, edits, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
done = 0
while done < edits:
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_ino != os.stat(path).st_ino:
            continue
        value = json.load(file)
        cells = value["cells"]
        mine = [cell for cell in cells if "".join(cell["source"]).startswith("person")]
        if mine and rng.random() < 0.3:
            cell = rng.choice(mine)
            cell["source"] = "".join(cell["source"]) + f" person+{done}"
        else:
            cell = {"cell_type": "code", "id": f"person-{done}", "metadata": {}, "outputs": [], "execution_count": None}
            cells.insert(rng.randint(0, len(cells)), cell | {"source": f"person {done}"})
        with open(path + ".person", "w") as new:
            json.dump(value, new, indent=rng.choice((1, 2, None)))
        os.replace(path + ".person", path)
        done += 1
    time.sleep(rng.random() / 50)
"""


async def client(contents: Any, name: str, edits: int, log: list[str]) -> None:
    """Random edits of one client; each source carries the numbers of all edits it has met."""
    rng = random.Random(name)
    for number in range(edits):
        async with contents.edit("a.ipynb", durable=rng.random() < 0.7) as notebook:
            mine = [at for at, cell in enumerate(notebook.cells) if cell.source.startswith(name)]
            kind = rng.random()
            if not mine or kind < 0.5:
                cell = notebooks.shallow(notebooks.new_cell("code", f"{name} {number}"), id=f"{name}-{number}")
                notebooks.insert_cell(notebook, rng.randint(0, len(notebook.cells)), cell)
            elif kind < 0.8:
                at = rng.choice(mine)
                notebooks.replace_source(notebook, at, f"{notebook.cells[at].source} {name}+{number}")
            else:
                at = rng.choice(mine)
                notebooks.move_cell(notebook, at, rng.randrange(len(notebook.cells)))
                outputs = [{"output_type": "stream", "name": "stdout", "text": f"{number}"}]
                at = next(at for at, cell in enumerate(notebook.cells) if cell.source.startswith(name))
                notebooks.replace_source(notebook, at, f"{notebook.cells[at].source} {name}+{number}")
                notebooks.set_outputs(notebook, at, outputs, number)
        log.append(f"{name}{'+' if kind >= 0.5 and mine else ' '}{number}")
        if number % 50 == 0:
            await contents.flush()


@pytest.mark.anyio
@pytest.mark.timeout(240)
async def test_a_thousand_edits_of_clients_servers_and_a_writer_on_disk_are_neither_lost_nor_doubled(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes((FIXTURES / "modern.ipynb").read_bytes())
    log: list[str] = []
    share = EDITS // 4
    person = await anyio.open_process([sys.executable, "-c", _PERSON, str(path), str(share), "1"], stderr=None)
    async with person:
        async with (
            files.open_contents(Settings(root=tmp_path)) as one,
            files.open_contents(Settings(root=tmp_path)) as another,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client, one, "alice", share, log)
            tasks.start_soon(client, one, "bob", share, log)
            tasks.start_soon(client, another, "carol", share, log)
        assert await person.wait() == 0
    cells = json.loads(path.read_text())["cells"]
    ids = [cell["id"] for cell in cells]
    assert len(ids) == len(set(ids))
    sources = ["".join(cell["source"]) for cell in cells]
    met = [mark for source in sources for mark in marks(source)]
    assert len(met) == len(set(met))
    wanted = {mark for entry in log for mark in marks(entry)}
    assert wanted <= set(met)
    assert sum(mark.startswith("person") for mark in met) == share
    original = json.loads((FIXTURES / "modern.ipynb").read_text())["cells"]
    assert sorted((c for c in cells if c["id"] in {o["id"] for o in original}), key=lambda c: c["id"]) == sorted(
        original, key=lambda c: c["id"]
    )


def marks(source: str) -> list[str]:
    """`alice 3 alice+5` made `["alice 3", "alice+5"]`: one mark for each edit, none in the cells of the fixture."""
    names = ("alice", "bob", "carol", "person")
    words = source.split(" ")
    if words[0] in names:
        return [" ".join(words[:2]), *words[2:]]
    return [word for word in words if word.startswith(tuple(f"{name}+" for name in names))]

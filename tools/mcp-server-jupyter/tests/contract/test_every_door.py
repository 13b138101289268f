"""Every operation once through every door, and refused once. What each of them does is in `test_operations`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from every_door import HTTP_DOORS, STDIO_DOORS, Door, Result, open_http_door, open_stdio_door
from mcp_server_jupyter.operations import OPERATIONS
from support import Server

PICTURE = (
    "import base64\nfrom IPython.display import Image, display\n"
    "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5"
    "ErkJggg==')))"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server")).start()
    yield server
    assert server.stop() == 0


class Walk:
    """A walk through the operations by one door, in a notebook of its own; what was answered is noted."""

    def __init__(self, door: Door, path: str) -> None:
        self.door, self.path = door, path
        self.answered: set[str] = set()

    def __call__(self, operation: str, /, **arguments: Any) -> str:
        return self.result(operation, notebook_path=self.path, **arguments).text

    def result(self, operation: str, /, **arguments: Any) -> Result:
        result = self.door.call(operation, **arguments)
        assert not result.is_error, result.text
        self.answered.add(operation)
        return result

    def refused(self, operation: str, /, **arguments: Any) -> str:
        result = self.door.call(operation, **arguments)
        assert result.is_error, result.text
        return result.text

    def sources(self) -> list[str]:
        cells = json.loads((self.door.root / self.path).read_text())["cells"]
        return ["".join(cell["source"]) for cell in cells]


@pytest.mark.parametrize("name", STDIO_DOORS)
def test_every_operation_through_stdio(name: str, tmp_path: Path) -> None:
    with open_stdio_door(name, tmp_path) as door:
        _walk(Walk(door, "walk.ipynb"))


@pytest.mark.xdist_group("http doors")
@pytest.mark.parametrize("name", HTTP_DOORS)
def test_every_operation_through_http(name: str, server: Server) -> None:
    with open_http_door(name, server) as door:
        _walk(Walk(door, f"{name.replace(' ', '-')}.ipynb"))


def _walk(walk: Walk) -> None:
    _notebook_and_cells(walk)
    _runs(walk)
    _kernel(walk)
    assert walk.answered == set(OPERATIONS)
    for operation in OPERATIONS:
        assert "colour" in walk.refused(operation, colour="red"), operation


def _notebook_and_cells(walk: Walk) -> None:
    walk("create_notebook")
    assert walk.path in walk.result("list_notebooks").text
    assert walk.path in walk.result("list_files", path="").text
    assert "0 cells" in walk("get_notebook_info")
    walk("insert_cell", cell_index=-1, cell_type="code", cell_source="a = 1")
    walk("append_markdown_cell", cell_source="# Tïtle 💥")
    assert "a = 1" in walk("read_cell", cell_index=0)
    assert "# Tïtle 💥" in walk("read_all_cells", start=1)
    walk("edit_cell_source", cell_index=0, old_string="1", new_string="2")
    walk("overwrite_cell_source", cell_index=1, cell_source="# Other")
    walk("move_cell", cell_index=0, to_index=-1)
    assert walk.sources() == ["# Other", "a = 2"]
    conflict = walk.refused(
        "overwrite_cell_source", notebook_path=walk.path, cell_index=1, cell_source="a = 3", expected_hash="0" * 12
    )
    assert "-a = 2" in conflict
    walk("delete_cell", cell_index=0)
    assert walk.sources() == ["a = 2"]
    walk("undo")
    assert walk.sources() == ["# Other", "a = 2"]
    walk("undo", scope="turn")
    assert walk.sources() == []


def _runs(walk: Walk) -> None:
    assert "42" in walk("append_execute_code_cell", cell_source="x = 41\nx + 1")
    shown = walk.result("insert_execute_code_cell", notebook_path=walk.path, cell_index=0, cell_source=PICTURE)
    assert shown.images == 1
    assert "42" in walk("execute_cell_with_progress", cell_index=1)
    assert "2 ok" in walk("run_all_cells")
    walk("clear_outputs")
    asked = walk("execute_code", code="name = input('Who? ')\nprint('Hello', name)")
    handle = _execution_id(asked)
    assert "Hello Ada" in walk.result("send_input", execution_id=handle, text="Ada").text
    assert "Hello Ada" in walk.result("get_execution", execution_id=handle, cursor=0).text
    assert "x: int  41" in walk("list_variables")
    assert "41" in walk("inspect_variable", name="x")


def _kernel(walk: Walk) -> None:
    running = walk("execute_code", code="import time\ntime.sleep(60)", timeout_seconds=0.1)
    walk("interrupt_kernel")
    page = walk.result("get_execution", execution_id=_execution_id(running), cursor=0).text
    assert "KeyboardInterrupt" in page
    assert walk.path in walk.result("list_kernels").text
    walk("restart_kernel")
    assert "NameError" in walk("execute_code", code="x")
    walk("shutdown_kernel")
    walk("start_kernel", kernel_name="python3")
    walk("shutdown_kernel")


def _execution_id(text: str) -> str:
    found = re.search(r'execution_id="(\w+)"', text)
    assert found, text
    return found[1]

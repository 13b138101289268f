"""Every operation, whole, in process; `test_every_door` takes each of them through the other doors."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from every_door import Door, Result, in_process
from mcp_server_jupyter.operations import ALIASES, OPERATIONS
from support import eventually

pytestmark = pytest.mark.xdist_group("operations")

_names = itertools.count()

RESET = "get_ipython().reset(new_session=False)\nget_ipython().execution_count = 1"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with in_process(tmp_path_factory.mktemp("door")) as door:
        yield door


class Notebook:
    """A notebook of its own for one test, with the door to it."""

    def __init__(self, door: Door, path: str) -> None:
        self.door, self.path = door, path

    def __call__(self, operation: str, /, **arguments: Any) -> Result:
        return self.door.call(operation, notebook_path=self.path, **arguments)

    def ok(self, operation: str, /, **arguments: Any) -> str:
        result = self(operation, **arguments)
        assert not result.is_error, result.text
        return result.text

    def data(self, operation: str, /, **arguments: Any) -> dict[str, Any]:
        result = self(operation, **arguments)
        assert not result.is_error, result.text
        return result.data

    def fails(self, operation: str, /, **arguments: Any) -> str:
        result = self(operation, **arguments)
        assert result.is_error, result.text
        return result.text

    def cells(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.door.root / self.path).read_text())["cells"]
        return found

    def sources(self) -> list[str]:
        return ["".join(cell["source"]) for cell in self.cells()]


@pytest.fixture
def notebook(door: Door) -> Notebook:
    """A new notebook, without a kernel."""
    notebook = Notebook(door, f"n{next(_names)}.ipynb")
    notebook.ok("create_notebook")
    return notebook


@pytest.fixture(scope="module")
def kernel(door: Door) -> Notebook:
    """A notebook whose kernel serves many tests."""
    notebook = Notebook(door, "kept.ipynb")
    notebook.ok("create_notebook")
    notebook.ok("start_kernel", kernel_name="python3")
    return notebook


@pytest.fixture
def running(kernel: Notebook) -> Notebook:
    """A notebook without cells, whose kernel runs, has no variables and counts from In[1]."""
    kernel.ok("execute_code", code=RESET)
    # The file may be behind by what a run has just put into the notebook.
    for _ in range(kernel.data("get_notebook_info")["cells"]):
        kernel.ok("delete_cell", cell_index=0)
    return kernel


def execution_id(text: str) -> str:
    found = re.search(r'execution_id="(\w+)"', text)
    assert found, text
    return found[1]


def test_every_operation_is_called_below() -> None:
    text = Path(__file__).read_text()
    assert [name for name in OPERATIONS if f'"{name}"' not in text] == []


def test_a_new_notebook_is_listed_outlined_and_not_overwritten(notebook: Notebook) -> None:
    assert notebook.path in notebook.door.call("list_notebooks").text
    assert notebook.path in notebook.door.call("list_files", path="").text
    assert notebook.data("get_notebook_info")["cells"] == 0
    notebook.ok("append_markdown_cell", cell_source="kept")
    notebook.fails("create_notebook")
    assert notebook.sources() == ["kept"]


def test_cells_are_inserted_read_edited_moved_and_deleted(notebook: Notebook) -> None:
    notebook.ok("insert_cell", cell_index=-1, cell_type="code", cell_source="a = 1")
    notebook.ok("append_markdown_cell", cell_source="# Title\ntext")
    inserted = notebook.data("insert_cell", cell_index=0, cell_type="raw", cell_source="raw text")
    assert inserted["cell_id"] == notebook.cells()[0]["id"]
    assert "a = 1" in notebook.ok("read_cell", cell_index=1)
    everything = notebook.ok("read_all_cells")
    assert everything.index("raw text") < everything.index("a = 1") < everything.index("# Title")
    assert notebook.data("read_all_cells", start=0, limit=1)["next_start"] == 1
    notebook.ok("edit_cell_source", cell_index=1, old_string="1", new_string="2")
    notebook.ok("overwrite_cell_source", cell_index=2, cell_source="# Other")
    notebook.ok("move_cell", cell_index=0, to_index=-1)
    assert notebook.sources() == ["a = 2", "# Other", "raw text"]
    notebook.ok("delete_cell", cell_index=1)
    assert notebook.sources() == ["a = 2", "raw text"]


def test_an_edit_meant_for_another_state_of_the_cell_is_a_conflict_with_a_diff(notebook: Notebook) -> None:
    notebook.ok("insert_cell", cell_index=-1, cell_type="code", cell_source="a = 1")
    text = notebook.fails("overwrite_cell_source", cell_index=0, cell_source="a = 2", expected_hash="0" * 12)
    assert "-a = 1" in text
    assert "+a = 2" in text
    notebook.fails("delete_cell", cell_index=0, expected_hash="0" * 12)
    notebook.fails("edit_cell_source", cell_index=0, old_string="1", new_string="2", expected_hash="0" * 12)
    assert notebook.sources() == ["a = 1"]


def test_an_agents_last_turn_is_undone_and_brought_back(notebook: Notebook) -> None:
    notebook.ok("insert_cell", cell_index=-1, cell_type="code", cell_source="a = 1")
    notebook.ok("overwrite_cell_source", cell_index=0, cell_source="a = 2")
    text = notebook.ok("undo", scope="turn")
    assert notebook.sources() == []
    turn = re.search(r'turn="([^"]+)"', text)
    assert turn
    notebook.ok("undo", turn=turn[1])
    assert notebook.sources() == ["a = 2"]
    assert "tester" in notebook.fails("undo", author="nobody")


def test_code_runs_with_results_errors_and_images_and_lands_in_the_file(running: Notebook) -> None:
    assert "42" in running.ok("append_execute_code_cell", cell_source="x = 41\nx + 1")
    assert "ok In[2]" in running.ok("insert_execute_code_cell", cell_index=0, cell_source="print('first')")
    failed = running("append_execute_code_cell", cell_source="1/0")
    assert not failed.is_error
    assert "ZeroDivisionError" in failed.text
    image = running("append_execute_code_cell", cell_source=PICTURE)
    assert image.images == 1
    assert "42" in running.ok("execute_cell_with_progress", cell_index=1)
    assert "41" in running.ok("execute_code", code="x")
    outputs = [[output["output_type"] for output in cell["outputs"]] for cell in eventually_outputs(running, 4)]
    assert outputs == [["stream"], ["execute_result"], ["error"], ["display_data"]]
    running.ok("clear_outputs", cell_index=1)
    running.ok("clear_outputs")
    assert [cell["outputs"] for cell in running.cells()] == [[], [], [], []]


PICTURE = """
import base64, zlib, struct
from IPython.display import Image, display
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
rows = b''.join(b'\\0' + bytes([10, 200, 30]) * 8 for _ in range(8))
display(Image(b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 8, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')))
"""


def eventually_outputs(notebook: Notebook, count: int) -> list[dict[str, Any]]:
    """The cells once all of them have reached the file, with outputs."""

    def complete() -> list[dict[str, Any]] | None:
        cells = notebook.cells()
        return cells if len(cells) == count and all(cell["outputs"] for cell in cells) else None

    return eventually(complete, 60, "outputs on disk")


def test_run_all_stops_at_the_first_error_unless_told_not_to(running: Notebook) -> None:
    for source in ("a = 1", "1/0", "print('after')"):
        running.ok("insert_cell", cell_index=-1, cell_type="code", cell_source=source)
    assert running.data("run_all_cells")["status"] == {"ok": 1, "error": 1, "aborted": 1}
    eventually(lambda: [bool(cell["outputs"]) for cell in running.cells()] == [False, True, False], 60, "one output")
    assert running.data("run_all_cells", stop_on_error=False)["status"] == {"ok": 2, "error": 1}
    assert running.data("run_all_cells", start=2)["status"] == {"ok": 1}


def test_a_long_cell_is_answered_with_a_handle_and_interrupted_keeping_variables(running: Notebook) -> None:
    running.ok("execute_code", code="kept = 7")
    text = running.ok(
        "execute_code", code="import time\nprint('begun', flush=True)\ntime.sleep(60)", timeout_seconds=0.5
    )
    handle = execution_id(text)
    assert "begun" in running.door.call("get_execution", execution_id=handle, wait_seconds=0.1).text
    assert running.data("interrupt_kernel")["stopped"] is True
    page = running.door.call("get_execution", execution_id=handle, cursor=0)
    assert page.data["status"] == "interrupted"
    assert "begun" in page.text
    assert "7" in running.ok("execute_code", code="kept")


def test_a_cell_that_asks_for_input_says_so_and_takes_it(running: Notebook) -> None:
    text = running.ok("append_execute_code_cell", cell_source="name = input('Who? ')\nprint('Hello', name)")
    assert "waits for input: 'Who? '" in text
    answer = running.door.call("send_input", execution_id=execution_id(text), text="Ada")
    assert "Hello Ada" in answer.text


def test_variables_are_shown_without_a_trace_in_the_history(running: Notebook) -> None:
    running.ok("execute_code", code="import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\nn = 3")
    text = running.ok("list_variables")
    assert "df: pandas.DataFrame 2x2" in text
    assert "n: int" in text
    shown = running.ok("inspect_variable", name="df")
    assert "a: int64" in shown
    assert "x" in running.ok("inspect_variable", name="df.b[0]")
    assert "similar: df" in running.fails("inspect_variable", name="dff")
    assert "not a variable" in running.fails("inspect_variable", name="print('side effect')")
    assert "In[2]" in running.ok("execute_code", code="1")


def test_an_object_that_raises_or_never_answers_hides_no_other_variable(running: Notebook) -> None:
    running.ok("execute_code", code=HOSTILE)
    shown = {v["name"]: v for v in running.data("list_variables")["variables"]}
    assert shown["n"]["value"] == "3"
    assert shown["raising"]["size"] == "(cannot be shown: RuntimeError)"
    assert shown["endless"]["size"] == "(took too long)"
    assert running.data("inspect_variable", name="raising")["type"] == "Raising"
    assert "3" in running.ok("execute_code", code="n")


HOSTILE = """
class Raising:
    def __getattr__(self, name):
        raise RuntimeError("working outside of request context")
class Endless:
    def __len__(self):
        while True:
            pass
raising, endless, n = Raising(), Endless(), 3
"""


def test_kernels_are_listed_restarted_started_and_shut_down(notebook: Notebook) -> None:
    notebook.ok("append_execute_code_cell", cell_source="v = 1")
    listed = notebook.door.call("list_kernels").text
    assert notebook.path in listed
    assert "python3" in listed
    restarted = notebook.data("restart_kernel")
    assert (restarted["kernel_epoch"], restarted["cells_to_rerun"]) == (2, [0])
    assert notebook.data("execute_code", code="v")["ename"] == "NameError"
    notebook.ok("shutdown_kernel")
    assert notebook.path not in notebook.door.call("list_kernels").text
    assert "start_kernel" in notebook.fails("interrupt_kernel")
    started = notebook.data("start_kernel", kernel_name="python3")
    assert (started["notebook_path"], started["kernel_epoch"]) == (notebook.path, 3)
    assert started["kernel_id"] in notebook.fails("start_kernel", kernel_name="python3")
    notebook.ok("shutdown_kernel")


def test_wrong_arguments_are_named_with_what_is_right(notebook: Notebook) -> None:
    assert "must be an integer" in notebook.fails("read_cell", cell_index="one")
    assert "It takes: notebook_path, cell_index" in notebook.fails("read_cell", colour="red")
    assert "needs cell_source" in notebook.fails("append_markdown_cell")
    assert "one of code, markdown, raw" in notebook.fails(
        "insert_cell", cell_index=0, cell_type="sql", cell_source="select 1"
    )
    assert "at least 0" in notebook.fails("read_all_cells", start=-1)
    assert "start_kernel" in notebook.fails("interrupt_kernel")
    missing = notebook.door.call("read_cell", notebook_path="missing.ipynb", cell_index=0)
    assert missing.is_error
    assert "missing.ipynb" in missing.text


def test_names_of_other_servers_tools_are_understood(running: Notebook) -> None:
    running.ok("append_execute_code_cell", code="print('hi')")
    assert "hi" in running.ok("execute_cell", index=0, timeout=60)
    assert "print('hi')" in running.ok("read_notebook")
    assert "42" in running.ok("execute_in_kernel", code="print(40 + 2)")
    assert set(ALIASES.values()) <= set(OPERATIONS)


def test_paths_never_leave_the_root(door: Door) -> None:
    for path in ("../x.ipynb", "/etc/passwd", "a/../../x.ipynb", "/tmp/x.ipynb"):
        result = door.call("create_notebook", notebook_path=path)
        assert result.is_error, path
    assert door.call("list_files", path="..").is_error

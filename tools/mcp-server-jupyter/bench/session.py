"""A scripted analysis of twenty steps, and how many bytes an agent reads for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .server import Server, stdio

NOTEBOOK = "session.ipynb"

DATA = """import numpy as np, pandas as pd
rng = np.random.default_rng(7)
frame = pd.DataFrame(rng.normal(size=(5_000, 12)), columns=[f"station_{n}" for n in range(12)])
frame["month"] = pd.date_range("2001-01-01", periods=len(frame), freq="D")
len(frame)"""
WHOLE = """with pd.option_context("display.max_rows", None, "display.max_columns", None, "display.width", 200):
    print(frame.head(1_500).to_string())"""
PLOT = """import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(7, 4))
frame.set_index("month")[["station_0", "station_1"]].rolling(365).mean().plot(ax=axes)
plt.show()"""
LINES = "for number in range(10_000):\n    print(f'record {number}: checked {number * 37 % 101}')"
DEEP = "def walk(depth):\n    return 1 / depth if depth == 0 else walk(depth - 1)\n\nwalk(60)"
BAR = """from tqdm import tqdm
import time
for _ in tqdm(range(200)):
    time.sleep(0.002)"""
LONG = "import time\nfor second in range(60):\n    print('second', second, flush=True)\n    time.sleep(1)"
RESULT = "summary = frame.filter(like='station').agg(['mean', 'std']).round(3).T\nsummary"


@dataclass(slots=True)
class Step:
    """One step: the calls an agent makes, and what it has read by their end."""

    name: str
    calls: list[tuple[str, Callable[[Session], dict[str, Any]]]]


@dataclass(slots=True)
class Session:
    """What is known while the steps are taken: ids of cells by a name, the execution that runs, and what was read."""

    server: Server
    last_cell: int = -1
    running: str = ""
    calls: int = 0
    text: dict[str, int] = field(default_factory=dict)
    pictures: int = 0

    async def take(self, step: Step) -> None:
        read = 0
        for tool, arguments in step.calls:
            answer = await self.server.call(tool, **arguments(self))
            if answer.is_error:
                raise RuntimeError(f"{step.name}, {tool}: {answer.text[:500]}")
            self.calls += 1
            read += answer.content_bytes - answer.image_bytes
            self.pictures += answer.image_bytes
            if 'execution_id="' in answer.text:
                self.running = answer.text.split('execution_id="')[1].split('"')[0]
        self.text[step.name] = read


def _given(**arguments: Any) -> Callable[[Session], dict[str, Any]]:
    return lambda session: {"notebook_path": NOTEBOOK, **arguments}


def _cell(source: str) -> tuple[str, Callable[[Session], dict[str, Any]]]:
    return "append_execute_code_cell", _given(cell_source=source)


def _waits(seconds: float) -> tuple[str, Callable[[Session], dict[str, Any]]]:
    return "get_execution", lambda session: {"execution_id": session.running, "wait_seconds": seconds}


STEPS = (
    Step("look around", [("list_notebooks", lambda _: {}), ("list_kernels", lambda _: {})]),
    Step(
        "make a notebook", [("create_notebook", _given()), ("append_markdown_cell", _given(cell_source="# Stations"))]
    ),
    Step("load data", [_cell(DATA)]),
    Step("outline", [("get_notebook_info", _given())]),
    Step("show a frame", [_cell("frame")]),
    Step("print 1,500 rows", [_cell(WHOLE)]),
    Step("look at a variable", [("list_variables", _given()), ("inspect_variable", _given(name="frame"))]),
    Step("plot", [_cell(PLOT)]),
    Step("print 10,000 lines", [_cell(LINES)]),
    Step("meet a long traceback", [_cell(DEEP)]),
    Step(
        "mend and run it",
        [
            ("edit_cell_source", _given(cell_index=-1, old_string="1 / depth", new_string="depth")),
            ("execute_cell_with_progress", _given(cell_index=-1)),
        ],
    ),
    Step("progress bar", [_cell(BAR)]),
    Step(
        "start a long cell",
        [
            ("insert_cell", _given(cell_index=-1, cell_type="code", cell_source=LONG)),
            ("execute_cell_with_progress", _given(cell_index=-1, timeout_seconds=2)),
        ],
    ),
    Step("wait for it, then stop it", [_waits(2), ("interrupt_kernel", _given()), _waits(10)]),
    Step("go on", [("execute_code", _given(code="len(frame.columns)"))]),
    Step("delete the long cell", [("delete_cell", _given(cell_index=-1))]),
    Step("take that back, and again", [("undo", _given()), ("delete_cell", _given(cell_index=-1))]),
    Step("read a cell with its outputs", [("read_cell", _given(cell_index=5))]),
    Step("run all anew", [("restart_kernel", _given()), ("run_all_cells", _given())]),
    Step("conclude", [_cell(RESULT), ("get_notebook_info", _given())]),
)


async def session(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Take the steps on a folder of its own; bytes by step, and what they come to."""
    async with stdio(folder, name="session") as server:
        taken = Session(server)
        for step in STEPS:
            await taken.take(step)
    total = {"text": sum(taken.text.values()), "pictures": taken.pictures, "calls": taken.calls}
    return {
        "session": {name: [float(size)] for name, size in taken.text.items()},
        "session in all": {name: [float(size)] for name, size in total.items()},
    }

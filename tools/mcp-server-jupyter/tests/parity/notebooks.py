"""Small notebooks of our own making: together they have a kernel send every message there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

Way = Literal["run", "run_all", "each"]


@dataclass(frozen=True)
class Parity:
    """One notebook.

    Attributes:
        cells: sources of code cells, or cells.
        ways: of running it here that are compared.
        own_kernel: its kernel is not used by the next notebook.
        ours: the error that a cell has besides what nbclient has there, by index; why is said beside it. Whether such
            a cell still hears of its count is chance.
    """

    cells: Sequence[Any]
    ways: tuple[Way, ...] = ("run_all", "each")
    own_kernel: bool = False
    ours: dict[int, Any] = field(default_factory=dict)

    def notebook(self, name: str) -> Any:
        """A new notebook, whose cells' ids are the same each time."""
        cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in self.cells]
        for index, cell in enumerate(cells):
            cell = cells[index] = nbformat.from_dict(dict(cell))
            cell["id"] = f"{name}-{index}"
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        return new_notebook(cells=cells, metadata={"kernelspec": kernelspec})


def code(source: str, *tags: str, outputs: Sequence[Any] = (), count: int | None = None) -> Any:
    """A code cell with tags, and with what an earlier run left."""
    made = new_code_cell(source, outputs=[nbformat.from_dict(output) for output in outputs], execution_count=count)
    made.metadata["tags"] = list(tags)
    return made


OLD = {"output_type": "stream", "name": "stdout", "text": "of an earlier run\n"}
DISPLAY = "from IPython.display import clear_output, display, update_display\n"
EVERY_MIME = """
class Every:
    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {
            "text/plain": "plain", "text/html": "<b>html</b>", "text/markdown": "# md", "text/latex": "$x$",
            "image/svg+xml": "<svg/>", "application/json": {"a": [1, None, 2.5]}, "application/javascript": "1",
            "application/vnd.example+json": [1, {"b": True}], "application/pdf": "JVBERi0=",
        }
        return data, {"text/html": {"isolated": True}, "image/png": {"width": 3}}
Every()
"""
PICTURE = """
import base64
from IPython.display import Image
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Image(base64.b64decode(PNG), width=3, alt="a dot")
"""
WIDGETS = "import ipywidgets as w\nfrom IPython.display import display, clear_output\n"

NOTEBOOKS: dict[str, Parity] = {
    # ---------------------------------------------------------------- streams
    "a_print": Parity(["print('hello')"]),
    "streams_in_turn": Parity(
        [
            "import sys\nfor i in range(6):\n    print(i, flush=True)\n    print(-i, file=sys.stderr, flush=True)",
            "sys.stdout.write('no line end'); sys.stdout.flush(); sys.stderr.write('nor here'); sys.stderr.flush()",
        ]
    ),
    "carriage_returns": Parity(
        [
            "for i in range(30):\n    print(f'\\r{i}%', end='', flush=True)",
            "print('abc\\b\\bX\\r\\nY\\rZ')",
            "print('\\n\\r\\n')",
        ]
    ),
    "many_small_prints": Parity(["for i in range(2_000):\n    print(i, end=' ')"]),
    "a_big_output": Parity(["print('x' * 2_000_000)", "'y' * 300_000", "for i in range(20_000): print('line', i)"]),
    "unicode": Parity(
        ["print('žluťoučký 漢字 🎉 \\u202e \\x00 \\x7f')", "'\\u2028 \\x1b[31mred\\x1b[0m'", "'\\ud83d'"]
    ),
    "ansi_colours": Parity(["print('\\x1b[1;31mbold red\\x1b[0m \\x1b[38;5;200mpink\\x1b[0m')"]),
    "nothing_to_show": Parity(["x = 1", "None", "pass", "x;", "_ = 5"]),
    "an_empty_print": Parity(["print('')", "print('', end='')", "import sys; sys.stdout.write('') and None"]),
    # ---------------------------------------------------------------- results and displays
    "results": Parity(["1", "'text'", "[1, 2]", "{'a': 1}", "1.5; 2", "object.__repr__", "In[1], Out[1], _, __"]),
    "results_of_every_mime": Parity([EVERY_MIME, PICTURE]),
    "displays_of_every_kind": Parity(
        [
            f"{DISPLAY}from IPython.display import HTML, JSON, Javascript, Latex, Markdown, SVG, Code, Pretty\n"
            "display(HTML('<i>h</i>'), Latex('$y$'), Markdown('*m*'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))",
            "display(JSON({'k': [1]}, expanded=True), Javascript('1'), Pretty('p'), Code('x = 1', language='python'))",
            "display({'text/plain': 'raw', 'application/x-thing': 'x'}, raw=True, metadata={'m': 1})",
            "display(1, 2, 'three')",
        ]
    ),
    "a_display_updated_in_its_cell": Parity(
        [f"{DISPLAY}h = display('one', display_id=True)\nh.update('two')\nh.display('three')"]
    ),
    "a_display_updated_by_a_later_cell": Parity(
        [
            f"{DISPLAY}display('first', display_id='d')",
            "display('again', display_id='d')",
            "update_display('last', display_id='d')",
        ]
    ),
    "a_display_updated_after_the_end_of_all": Parity(
        [
            f"{DISPLAY}h = display('one', display_id=True)",
            "1",
            "h.update({'text/plain': 'late', 'text/html': '<b>late</b>'}, raw=True)",
            "2",
        ]
    ),
    "an_update_of_nothing": Parity([f"{DISPLAY}update_display('x', display_id='unknown')", "1"]),
    "clear_now": Parity(
        [f"{DISPLAY}print('gone')\nclear_output()\nprint('stays')", "print('all gone')\nclear_output()"]
    ),
    "clear_with_the_next_output": Parity(
        [
            f"{DISPLAY}for i in range(4):\n    clear_output(wait=True)\n    display(i)",
            "print('kept')\nclear_output(wait=True)",
        ]
    ),
    "clear_and_an_error": Parity(
        [code(f"{DISPLAY}print('a')\nclear_output(wait=True)\n1/0", "raises-exception"), "print('b')"]
    ),
    "clear_a_display_and_update_it": Parity(
        [f"{DISPLAY}h = display('x', display_id=True)\nclear_output()\nh.update('y')\nprint('z')", "h.update('w')"]
    ),
    "tables": Parity(
        [
            "import pandas as pd\npd.DataFrame({'a': range(100), 'b': list('xy') * 50})",
            "pd.Series([1.5, None], name='s')",
            "_.to_frame().style",
        ]
    ),
    # ---------------------------------------------------------------- errors
    "an_error_stops_the_rest": Parity(["print('before')\n1/0", code("print('after')", outputs=[OLD], count=9), "3"]),
    "an_error_that_may_be": Parity([code("1/0", "raises-exception"), "print('goes on')"]),
    "an_error_of_an_error": Parity(
        [code("try:\n    1/0\nexcept Exception as e:\n    raise ValueError('second') from e", "raises-exception")]
    ),
    "an_error_with_notes": Parity([code("e = ValueError('x')\ne.add_note('a note')\nraise e", "raises-exception")]),
    "a_group_of_errors": Parity([code("raise ExceptionGroup('g', [ValueError(1), TypeError(2)])", "raises-exception")]),
    "an_error_deep_down": Parity([code("def f(n):\n    return f(n - 1) if n else 1/0\nf(5)", "raises-exception")]),
    "an_error_without_traceback": Parity(
        [
            code(
                "class Quiet(Exception):\n    def _render_traceback_(self): return ['Quiet!']\nraise Quiet('x')",
                "raises-exception",
            )
        ]
    ),
    "syntax_errors": Parity(
        [
            code("def", "raises-exception"),
            code("x = (1,\n", "raises-exception"),
            code("  y = 1\n z = 2", "raises-exception"),
        ]
    ),
    "an_exit": Parity([code("import sys; sys.exit(3)", "raises-exception"), "print('still there')"]),
    "a_keyboard_interrupt": Parity([code("raise KeyboardInterrupt", "raises-exception"), "print('goes on')"]),
    "warnings": Parity(
        ["import warnings\nwarnings.warn('careful', FutureWarning)", "import logging; logging.warning('logged')"]
    ),
    # ---------------------------------------------------------------- payloads, input, magics
    "the_next_cell_set": Parity(["get_ipython().set_next_input('x = 1')", "%recall 1"]),
    "pagers": Parity(["len?", "import json\njson.dumps??", "%quickref"]),
    "input_asked_for": Parity([code("input('name? ')", "raises-exception"), "print('goes on')"], ways=("run",)),
    "a_password_asked_for": Parity([code("import getpass\ngetpass.getpass()", "raises-exception")], ways=("run",)),
    "shells": Parity(["%%bash\necho one; echo two", "x = !echo three\nx", "%%bash --out out\necho kept", "out"]),
    "other_magics": Parity(
        [
            "%matplotlib inline\n%config InlineBackend",
            "%%writefile /dev/null\nx",
            "%who",
            "%%javascript\n1",
            "%%html\n<b>x</b>",
            "%%latex\n$x$",
            "%%markdown\n# x",
        ]
    ),
    # ---------------------------------------------------------------- asynchronous
    "async_cells": Parity(
        [
            "import asyncio\nawait asyncio.sleep(0)\nprint('a')",
            "async def f(): return 5\nawait f()",
            "async def g():\n    yield 1\n[x async for x in g()]",
        ]
    ),
    "a_thread_that_is_waited_for": Parity(
        ["import threading\nt = threading.Thread(target=print, args=('from a thread',)); t.start(); t.join()"]
    ),
    "a_task_of_an_earlier_cell": Parity(
        [
            "import asyncio\ndone = asyncio.Event()\ntask = asyncio.create_task(done.wait())",
            "done.set()\nawait task",
        ]
    ),
    "a_subclass_of_stdout": Parity(
        ["import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as s: print('x')\ns.getvalue()"]
    ),
    # ---------------------------------------------------------------- cells
    "cells_that_do_not_run": Parity(
        [
            new_markdown_cell("# Title\n![a](attachment:a.png)", attachments={"a.png": {"image/png": "aGk="}}),
            "1",
            new_raw_cell("raw *text*"),
            "",
            code("   \n", outputs=[OLD], count=4),
            code("1/0", "skip-execution", outputs=[OLD], count=5),
            "2",
        ]
    ),
    "stale_outputs_are_replaced": Parity(
        [code("1", outputs=[OLD, OLD], count=77), code("None", outputs=[OLD], count=3)]
    ),
    "tags_of_others": Parity([code("1", "remove-cell", "mine"), code("2", "parameters")]),
    "comments_only": Parity(["# nothing", "'''a text'''"]),
    # ---------------------------------------------------------------- comms and widgets
    "a_comm_of_no_widget": Parity(
        [
            "from comm import create_comm\nc = create_comm(target_name='x', data={'a': 1})\nc.send({})\nc.close()",
            "1",
        ]
    ),
    "a_slider": Parity([f"{WIDGETS}s = w.IntSlider(value=3)\ns", "s.value = 7", "s.value"]),
    "boxes_of_widgets": Parity(
        [f"{WIDGETS}w.VBox([w.HBox([w.Text('a'), w.Button(description='b')]), w.Image(value=b'123', format='png')])"]
    ),
    "an_output_widget": Parity(
        [
            f"{WIDGETS}o = w.Output()\no",
            "with o:\n    print('in it')\n    display(5)\nprint('not in it')",
            "o.outputs",
            "with o:\n    clear_output()\n    print('anew')",
            "o.outputs[0]['text']",
        ]
    ),
    "output_widgets_within_each_other": Parity(
        [f"{WIDGETS}a, b = w.Output(), w.Output()\nwith a:\n    print(1)\n    with b: print('b')\n    print(2)\na, b"]
    ),
    "an_error_in_an_output_widget": Parity([f"{WIDGETS}o = w.Output()\nwith o:\n    1/0\nprint('goes on')\no"]),
    "an_output_widget_that_clears_later": Parity(
        [f"{WIDGETS}o = w.Output()\nfor i in range(3):\n    with o: clear_output(True); print(i)\no"]
    ),
    "progress_bars": Parity(
        [
            "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), bar_format='{l_bar}{bar}{n_fmt}'): pass",
            "for _ in tqdm(range(3), leave=False, bar_format='{l_bar}{bar}{n_fmt}'): pass",
        ]
    ),
    # ---------------------------------------------------------------- ends
    "a_kernel_that_dies": Parity(
        ["print('before', flush=True)", "import os\nos._exit(1)", code("3", outputs=[OLD], count=9)],
        own_kernel=True,
        # nbclient raises; here the cell says itself what became of its kernel.
        ours={1: "KernelDead"},
    ),
}

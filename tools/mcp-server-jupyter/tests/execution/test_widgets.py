"""Widgets of real kernels: what Output widgets capture, what an agent reads, what the notebook keeps."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from execution.desk import Desk, settings_of
from mcp_server_jupyter.notebooks import shallow
from mcp_server_jupyter.outputs import STATE_MIME
from mcp_server_jupyter.services import open_services

pytestmark = pytest.mark.anyio

SLIDER = "import ipywidgets as w\ns = w.IntSlider(value=3, description='n')\ns"


@pytest.fixture(scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder = tmp_path_factory.mktemp("widgets")
    async with open_services(settings_of(folder, kernels="local", notebook="a.ipynb")) as services:
        desk = Desk(services)
        # What is told of the kernel once is told here.
        await run(desk, "0")
        yield desk


async def run(desk: Desk, code: str) -> str:
    """What the answer shows of a new cell's outputs."""
    answer = await desk.call("append_execute_code_cell", cell_source=code)
    assert answer.data["status"] == "ok", answer.text
    return answer.text.partition("\n")[2]


async def state(desk: Desk) -> dict[str, Any]:
    """The widgets that the file holds, by their names."""
    await desk.services.contents.flush()
    metadata = json.loads(await anyio.Path(desk.file).read_text())["metadata"]
    assert list(metadata["widgets"]) == [STATE_MIME]
    stored = metadata["widgets"][STATE_MIME]
    assert (stored["version_major"], stored["version_minor"]) == (2, 0)
    found: dict[str, Any] = stored["state"]
    return found


def values(stored: dict[str, Any], kind: str = "IntSliderModel") -> list[Any]:
    return [entry["state"]["value"] for entry in stored.values() if entry["model_name"] == kind]


async def test_a_progress_bar_is_told_in_its_last_state(desk: Desk) -> None:
    text = await run(desk, "from tqdm.auto import tqdm\nfor _ in tqdm(range(4), desc='load'): pass")
    assert text.startswith("load: 100% |██████████| 4/4 [")
    read = await desk.call("read_cell", cell_index=-1)
    assert read.text.endswith(text)
    assert await run(desk, "for _ in tqdm(range(4), leave=False): pass") == ""


async def test_what_an_output_widget_captures_is_shown_where_it_is_and_known_to_the_kernel(desk: Desk) -> None:
    text = await run(desk, "import ipywidgets as w\no = w.Output()\nwith o:\n    print('one')\n    1/0\no")
    assert text.startswith("one\n")
    assert "ZeroDivisionError: division by zero" in text
    cell = (await desk.cells())[-1]
    assert [output["output_type"] for output in cell["outputs"]] == ["execute_result"]
    assert await run(desk, "o.outputs[0]['text'], o.outputs[1]['ename']") == "('one\\n', 'ZeroDivisionError')"
    assert await run(desk, "o.clear_output()\nwith o: print('two')") == ""
    assert (await desk.call("read_cell", cell_id=cell["id"])).text.endswith("--- outputs\ntwo")
    captured = [
        entry["state"]["outputs"] for entry in (await state(desk)).values() if entry["model_name"] == "OutputModel"
    ]
    assert [{"output_type": "stream", "name": "stdout", "text": "two\n"}] in captured


async def test_interact_shows_its_controls_and_what_the_function_gave(desk: Desk) -> None:
    text = await run(desk, "import ipywidgets as w\n_ = w.interact(lambda x: print('x is', x), x=(0, 10))")
    assert text == "x: 5 [IntSlider 0 … 10, step 1]\nx is 5"


async def test_a_slider_that_a_later_cell_moves_is_shown_and_saved_where_it_stands_now(desk: Desk) -> None:
    assert await run(desk, SLIDER) == "n: 3 [IntSlider 0 … 100, step 1]"
    index = len(await desk.cells()) - 1
    await run(desk, "s.value = 8")
    assert "n: 8 [IntSlider" in (await desk.call("read_cell", cell_index=index)).text
    assert 8 in values(await state(desk))
    await desk.call("execute_code", code="s.value = 9", notebook_path="a.ipynb")
    assert 9 in values(await state(desk))


async def test_a_thread_that_moves_a_slider_later_is_followed(desk: Desk) -> None:
    await run(desk, SLIDER)
    go = "import threading\ngo = threading.Event()\n"
    await run(desk, f"{go}def later():\n    go.wait()\n    s.value = 77\nthreading.Thread(target=later).start()")
    await desk.call("execute_code", code="go.set()", notebook_path="a.ipynb")
    with anyio.fail_after(30):
        changes = desk.services.contents.changes()
        while 77 not in values(await state(desk)):
            await anext(changes)


async def test_a_rerun_forgets_the_widgets_of_the_run_before_it(desk: Desk) -> None:
    await run(desk, "import ipywidgets as w\nw.IntSlider(value=55)")
    index = len(await desk.cells()) - 1
    for _ in range(2):
        await desk.call("execute_cell_with_progress", cell_index=index)
    assert values(await state(desk)).count(55) == 1


async def test_stale_state_is_replaced_and_widgets_that_are_still_shown_are_kept(desk: Desk) -> None:
    async with desk.services.contents.edit("a.ipynb") as notebook:
        notebook["metadata"] = shallow(notebook.metadata, widgets={"state": {"x": {}}, "version": "1.0.0"})
    await run(desk, "import ipywidgets as w\nw.IntSlider(value=66)")
    assert 66 in values(await state(desk))
    await desk.call("restart_kernel", notebook_path="a.ipynb")
    await run(desk, "import ipywidgets as w; w.IntSlider(value=67)")
    assert {66, 67} <= set(values(await state(desk)))


async def test_a_widget_of_many_megabytes_is_left_out_and_the_answer_says_so(desk: Desk) -> None:
    text = await run(desk, "import ipywidgets as w\nw.Image(value=bytes(11 << 20))")
    assert "were not kept: the limit is 10,485,760 bytes." in text
    assert "[Image widget: " in text
    assert desk.file.stat().st_size < 2_000_000


async def test_a_server_that_comes_after_goes_on_from_what_the_notebook_holds(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, kernels="local", notebook="a.ipynb", keep_kernels=True)
    async with open_services(settings) as services:
        desk = Desk(services)
        await run(desk, f"{SLIDER}\no = w.Output()\nwith o: print('one')\nw.VBox([s, o])")
    async with open_services(settings_of(tmp_path, kernels="local", notebook="a.ipynb")) as services:
        desk = Desk(services)
        await run(desk, "s.value = 4\nwith o: print('two')")
        answer = await desk.call("read_cell", cell_index=0)
        assert answer.text.endswith("n: 4 [IntSlider 0 … 100, step 1]\none\ntwo")
        assert values(await state(desk)) == [4]

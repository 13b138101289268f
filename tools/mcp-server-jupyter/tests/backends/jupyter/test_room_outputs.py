"""What a live document is given of a running cell's outputs. No server: the notebook is a list of what it was given."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.backends.jupyter.rooms import outputs as module
from mcp_server_jupyter.backends.jupyter.rooms.outputs import Shown, while_running
from mcp_server_jupyter.ports import Unless

pytestmark = pytest.mark.anyio


class Notebook:
    """Keeps what it is given."""

    def __init__(self, *, is_live: bool = True) -> None:
        self.is_live = is_live
        self.given: list[tuple[list[Any], bool]] = []

    async def put(
        self, cell_id: str, outputs: list[Any], execution_count: int | None, unless: Unless | None, *, is_running: bool
    ) -> Any:
        self.given.append((outputs, is_running))

    @property
    def texts(self) -> list[str]:
        return ["".join(each.get("text", each.get("data", {}).get("image/png")) for each in g) for g, _ in self.given]


def stream(text: str, name: str = "stdout") -> Any:
    return notebooks.node({"output_type": "stream", "name": name, "text": text})


def picture(data: str) -> Any:
    return notebooks.node({"output_type": "display_data", "data": {"image/png": data}, "metadata": {}})


async def show(shown: Shown, notebook: Notebook, *, is_running: bool = True) -> None:
    await shown.put_into(notebook, "one", None, None, is_running=is_running)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_CHARACTERS", 10)


def test_a_running_cells_streams_are_shown_up_to_a_size_and_then_counted() -> None:
    outputs = [stream("123456"), picture("p"), stream("789012", "stderr"), stream("more")]

    shown = while_running(outputs)

    assert [each.get("text") for each in shown[:3]] == ["123456", None, "7890"]
    assert [each.output_type for each in shown] == ["stream", "display_data", "stream", "stream"]
    assert shown[0] is outputs[0]
    assert "6 characters more" in shown[-1].text
    assert outputs[2].text == "789012"


def test_what_is_not_too_much_is_shown_as_it_is() -> None:
    outputs = [stream("1234567890"), picture("p")]
    assert while_running(outputs) == outputs


async def test_the_rest_is_shown_at_the_end() -> None:
    notebook, shown = Notebook(), Shown()
    shown.append(stream("1234567890 and more"))

    await show(shown, notebook)
    await show(shown, notebook, is_running=False)

    assert notebook.texts[0].startswith("1234567890\n… and 9 characters more")
    assert notebook.texts[1] == "1234567890 and more"
    assert [is_running for _, is_running in notebook.given] == [True, False]


async def test_a_file_gets_everything_at_once() -> None:
    notebook, shown = Notebook(is_live=False), Shown()
    shown.append(stream("1234567890 and more"))
    await show(shown, notebook)
    assert notebook.texts == ["1234567890 and more"]


@pytest.mark.parametrize("is_cleared", [False, True])
async def test_a_picture_in_the_place_of_another_waits_and_the_last_one_is_shown_at_the_end(
    monkeypatch: pytest.MonkeyPatch, is_cleared: bool
) -> None:
    monkeypatch.setattr(module, "PICTURE_SECONDS", 3_600.0)
    notebook, shown = Notebook(), Shown()

    def draw(data: str) -> None:
        if is_cleared:
            shown.clear()
            shown.append(picture(data))
        else:
            shown.replace(0, picture(data))

    shown.append(picture("first"))
    await show(shown, notebook)
    draw("second")
    await show(shown, notebook)
    draw("third")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(show, shown, notebook)
        await anyio.wait_all_tasks_blocked()
        assert notebook.texts == ["first", "second"]
        draw("last")
        await show(shown, notebook, is_running=False)
        tasks.cancel_scope.cancel()
    assert notebook.texts == ["first", "second", "last"]


async def test_what_waited_beyond_the_end_does_not_make_the_cell_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURE_SECONDS", 0.05)
    notebook, shown = Notebook(), Shown()
    shown.append(picture("first"))
    shown.replace(0, picture("second"))
    await show(shown, notebook)
    shown.replace(0, picture("last"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(show, shown, notebook)
        tasks.start_soon(lambda: show(shown, notebook, is_running=False))
    assert notebook.texts[-1] == "last"
    assert notebook.given[-1][1] is False

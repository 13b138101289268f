"""What an agent's context pays: every answer within its budget, the rest behind a handle."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest
from mcp import Client

from mcp_server_jupyter.doors.mcp.server import INSTRUCTIONS, create_mcp
from mcp_server_jupyter.operations import Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.places import Places, open_places
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def places(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Places]:
    folder = tmp_path_factory.mktemp("economy")
    (folder / "root").mkdir()
    settings = Settings.load({"root": folder / "root", "state_dir": folder / "state", "notebook": "a.ipynb"}, {})
    async with open_services(settings) as services, open_places(services) as opened:
        yield opened


@pytest.fixture
async def services(places: Places) -> Services:
    return places.home


async def test_all_tools_are_listed_in_nine_and_a_half_kilobytes_the_same_every_time(places: Places) -> None:
    lists = []
    for _ in range(2):
        async with Client(create_mcp(places)) as client:
            lists.append((await client.list_tools()).model_dump_json(by_alias=True, exclude_none=True))
    assert lists[0] == lists[1]
    assert len(lists[0].encode()) <= 9_500


async def test_every_tool_says_what_it_does_to_the_world(places: Places) -> None:
    async with Client(create_mcp(places)) as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        assert tool.title, tool.name
        assert tool.description, tool.name
        assert tool.annotations, tool.name
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is None
        assert len(tool.description) < 2_000
    reading = {tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint}
    assert {"read_cell", "get_notebook_info", "list_variables", "get_execution"} <= reading
    assert not {"execute_code", "undo", "insert_cell", "interrupt_kernel"} & reading
    assert len(INSTRUCTIONS.encode()) < 2_048


async def test_fifty_cells_are_outlined_in_three_kilobytes(services: Services) -> None:
    await invoke(services, "create_notebook", {"notebook_path": "fifty.ipynb"}, caller=Caller("tester"))
    for number in range(50):
        kind = "markdown" if number % 5 == 0 else "code"
        source = (
            f"# Section {number} on the quarterly figures"
            if number % 5 == 0
            else f"df{number} = load({number})\nprint(1)"
        )
        arguments = {"cell_index": -1, "cell_type": kind, "cell_source": source, "notebook_path": "fifty.ipynb"}
        await invoke(services, "insert_cell", arguments, caller=Caller("tester"))
    answer = await invoke(services, "get_notebook_info", {"notebook_path": "fifty.ipynb"}, caller=Caller("tester"))
    assert len(answer.text.encode()) <= 3_000
    assert all(f"\n{number} " in answer.text for number in range(50))


async def test_a_hundred_thousand_lines_are_answered_with_head_tail_and_handle(services: Services) -> None:
    code = "for i in range(100_000):\n    print('line', i)"
    answer = await invoke(services, "append_execute_code_cell", {"cell_source": code}, caller=Caller("tester"))
    assert len(answer.text.encode()) <= 10_000
    assert "line 0\n" in answer.text
    assert "line 99999" in answer.text
    assert answer.links
    execution_id = answer.data["execution_id"]
    cursor, pages = 0, []
    for _ in range(400):
        page = await invoke(
            services, "get_execution", {"execution_id": execution_id, "cursor": cursor}, caller=Caller("t")
        )
        pages.append(page.text.partition("\n")[2].rpartition("\n")[0])
        if page.data["next_cursor"] is None:
            break
        cursor = page.data["next_cursor"]
    assert "".join(pages).count("line ") == 100_000


async def test_a_progress_bar_is_shown_in_its_last_state(services: Services) -> None:
    code = "import time\nfor i in range(101):\n    print(f'\\rdownload {i:3d}%', end='', flush=True)\nprint()"
    answer = await invoke(services, "execute_code", {"code": code}, caller=Caller("tester"))
    assert answer.text.count("download") == 1
    assert "download 100%" in answer.text


async def test_a_picture_over_the_limit_arrives_scaled_down(services: Services) -> None:
    code = (
        "import numpy as np, io\nfrom PIL import Image as P\nfrom IPython.display import Image, display\n"
        "rng = np.random.default_rng(1)\nb = io.BytesIO()\n"
        "P.fromarray(rng.integers(0, 255, (1200, 1200, 3), dtype='uint8')).save(b, 'PNG')\ndisplay(Image(b.getvalue()))"
    )
    answer = await invoke(services, "append_execute_code_cell", {"cell_source": code}, caller=Caller("tester"))
    assert [image.mime_type for image in answer.images] in (["image/png"], ["image/jpeg"])
    assert len(base64.b64decode(answer.images[0].data)) <= services.settings.max_image_bytes


async def test_reading_a_huge_cell_stays_in_the_budget(services: Services) -> None:
    source = "x = '''" + "y" * 100_000 + "'''"
    arguments = {"cell_index": 0, "cell_type": "code", "cell_source": source}
    await invoke(services, "insert_cell", arguments, caller=Caller("tester"))
    limit = services.settings.max_chars + 500
    assert len((await invoke(services, "read_cell", {"cell_index": 0}, caller=Caller("tester"))).text) <= limit
    assert len((await invoke(services, "read_all_cells", {}, caller=Caller("tester"))).text) <= 2 * limit

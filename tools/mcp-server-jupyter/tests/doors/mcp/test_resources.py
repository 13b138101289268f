"""Handles: every one that an answer or a list names can be read, whatever the notebook is called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference
from pydantic import AnyUrl

from http_app import notebook
from mcp_server_jupyter.doors.mcp.server import create_mcp
from mcp_server_jupyter.errors import InvalidRequest
from mcp_server_jupyter.operations.uris import (
    NotebookHandle,
    OutputHandle,
    cell_uri,
    notebook_uri,
    output_uri,
    parse_handle,
)
from mcp_server_jupyter.places import open_places
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

NAMES = [
    "My Notebook.ipynb",
    "Week 1/a.ipynb",
    "a#b.ipynb",
    "a?b.ipynb",
    "été.ipynb",
    "100%.ipynb",
    "100%25.ipynb",
    "a:80/x@y.ipynb",
    "[draft].ipynb",
]
LINES = "".join(f"{hashlib.sha256(bytes(number)).hexdigest()[: number % 40]} {number}\n" for number in range(3_000))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    for name in NAMES:
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        node = json.loads(notebook(f"name = {name!r}", "print lines"))
        node["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": LINES}]
        path.write_text(json.dumps(node))
    (tmp_path / "state").mkdir()
    options = {"root": tmp_path / "root", "state_dir": tmp_path / "state", "kernels": "memory"}
    async with (
        open_services(Settings.load(options, {})) as services,
        open_places(services) as places,
        Client(create_mcp(places)) as client,
    ):
        yield client


async def text_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return "\n".join(block.text for block in result.content if block.type == "text")


async def read(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri)).contents
    assert str(content.uri) == uri
    return str(content.text)


async def test_every_listed_notebook_has_a_uri_that_older_clients_accept_and_that_is_read(client: Client) -> None:
    listed = {resource.name: str(resource.uri) for resource in (await client.list_resources()).resources}
    assert sorted(listed) == sorted(NAMES)
    for name, uri in listed.items():
        assert str(AnyUrl(uri)) == uri  # SDK 1.x reads the list through this type
        assert f"name = {name!r}" in (await read(client, uri)).replace('\\"', '"'), uri


@pytest.mark.parametrize("name", NAMES)
async def test_the_handle_of_a_cell_is_read_page_by_page(client: Client, name: str) -> None:
    shown = await text_of(client, "read_cell", notebook_path=name, cell_index=1)
    cursor = re.search(r"read_cell\(.*, cursor=(\d+)\)", shown).group(1)  # type: ignore[union-attr]
    cell = re.search(r" id=(\S+) ", shown).group(1)  # type: ignore[union-attr]
    whole, uri = "", (handle := cell_uri(name, cell))
    while uri:
        page, _, last = (await read(client, uri)).rpartition("\n")
        uri = last if last.startswith("notebook://") else ""
        whole += page if uri else f"{page}\n{last}"
    assert whole == LINES
    assert (await read(client, f"{handle}&cursor={cursor}")).startswith(whole[int(cursor) : int(cursor) + 1000])


async def test_completions_spell_a_path_as_what_they_complete(client: Client) -> None:
    template = ResourceTemplateReference(uri="notebook://{+path}")
    for typed in ("a#", "a%23"):
        completed = await client.complete(template, {"name": "path", "value": typed})
        assert completed.completion.values == ["a%23b.ipynb"]
    prompt = PromptReference(name="code_review")
    completed = await client.complete(prompt, {"name": "notebook_path", "value": "a#"})
    assert completed.completion.values == ["a#b.ipynb"]


@pytest.mark.parametrize(
    "uri",
    [
        "output://x1/TEXT",
        "output://x1",
        f"output://x1/{'9' * 5_000}",
        "output://x1/-1",
        "output://%ff",
        "notebook://%ff.ipynb",
        "notebook://missing.ipynb",
        "notebook://../../etc/passwd",
        "notebook://",
        "notebook://a%00.ipynb",
        "notebook://My Notebook.ipynb?cell=none",
        "notebook://My Notebook.ipynb?cell=name&cursor=x",
        "notebook://My Notebook.ipynb?page=2",
        "notebook://My Notebook.ipynb#0",
        "notebook://" + "a" * 70_000 + ".ipynb",
        "nothing://here",
        "",
    ],
)
async def test_a_uri_of_nothing_is_an_invalid_parameter_and_no_crash(
    client: Client, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    with pytest.raises(MCPError) as refused:
        await client.read_resource(uri)
    assert refused.value.error.code == -32602
    assert not [record for record in caplog.records if record.exc_info]


@settings(max_examples=50)
@given(st.text(min_size=1), st.text(), st.integers(0, 10**12))
def test_a_handle_names_what_it_was_made_of(path: str, cell: str, cursor: int) -> None:
    assert parse_handle(notebook_uri(path)) == NotebookHandle(path)
    assert parse_handle(cell_uri(path, cell, cursor)) == NotebookHandle(path, cell, cursor)
    assert parse_handle(output_uri(path, cursor)) == OutputHandle(path, cursor)
    assert cell_uri(path, cell).isascii()


def test_the_fragment_of_a_uri_is_not_read_as_a_part_of_the_name() -> None:
    with pytest.raises(InvalidRequest, match="fragment"):
        parse_handle("notebook://a#b.ipynb")

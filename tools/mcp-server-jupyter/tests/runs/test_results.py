"""The results of a notebook: what was glued, else what the tagged cell shows."""

from __future__ import annotations

import base64
import io
from typing import Any

import pandas
import pytest

from mcp_server_jupyter.gluing import encoded
from mcp_server_jupyter.notebooks import node
from mcp_server_jupyter.runs.results import results_of

pytestmark = pytest.mark.anyio


def scrap(name: Any, data: Any, encoder: str = "json") -> dict[str, Any]:
    payload = {"name": name, "data": data, "encoder": encoder, "version": 1}
    return {"output_type": "display_data", "data": {f"application/scrapbook.scrap.{encoder}+json": payload}}


def shown(data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "execute_result", "data": data, "execution_count": 1, "metadata": {}}


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def notebook(*outputs: dict[str, Any], tags: tuple[str, ...] = ("results",)) -> Any:
    cell = {"cell_type": "code", "source": "", "metadata": {"tags": list(tags)}, "outputs": list(outputs)}
    return node({"cells": [cell], "metadata": {}})


async def results(*outputs: dict[str, Any], scraps: bool = True, **options: Any) -> Any:
    return (await results_of(notebook(*outputs, **options), "results", scraps=scraps))[0]


async def test_scraps_are_the_results_by_name_the_latest_of_a_name() -> None:
    assert await results(scrap("a", {"x": 1}), scrap("b", "text", "text"), scrap("a", [2])) == {"a": [2], "b": "text"}


async def test_a_frame_is_given_as_columns_index_and_data() -> None:
    buffer = io.BytesIO()
    pandas.DataFrame({"name": ["Alice", "Bob"], "score": [95, 87]}).to_parquet(buffer)
    found = await results(scrap("frame", base64.b64encode(buffer.getvalue()).decode(), "pandas"))
    assert found == {"frame": {"columns": ["name", "score"], "index": [0, 1], "data": [["Alice", 95], ["Bob", 87]]}}


async def test_a_broken_scrap_is_a_warning_and_costs_no_other() -> None:
    broken = (scrap(5, 1), scrap("b", "%%%", "pandas"), scrap("c", 1, "strange"), scrap("d", "{", "json"))
    found, warnings = await results_of(notebook(scrap("a", 1), *broken), "results", scraps=True)
    assert found == {"a": 1}
    assert len(warnings) == 4


async def test_scraps_can_be_switched_off() -> None:
    assert await results(scrap("a", 1), printed("2"), scraps=False) == {"result": 2}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([shown({"application/json": {"a": 1}, "text/plain": "<JSON>"})], {"a": 1}),
        ([shown({"text/plain": "{'a': (1, 2)}"})], {"a": (1, 2)}),
        ([shown({"text/plain": "42"})], {"result": 42}),
        ([shown({"text/plain": "<object at 0x7f>"})], {"result": "<object at 0x7f>"}),
        ([shown({"text/plain": "{1, 2}"})], {"result": "{1, 2}"}),
        ([printed('{"a": nu'), printed("ll}\n")], {"a": None}),
        ([printed("{'message': 'Hello World'}\n")], {"message": "Hello World"}),
        ([printed("plain text\n")], {"result": "plain text"}),
        ([printed("oh", "stderr")], {}),
        ([printed("7"), shown({"text/plain": "8"})], {"result": 8}),
        ([], {}),
    ],
)
async def test_without_scraps_the_tagged_cell_gives_the_result(outputs: list[Any], expected: Any) -> None:
    assert await results(*outputs) == expected


async def test_without_a_tagged_cell_there_is_no_result() -> None:
    assert await results(printed("1"), tags=()) == {}


@pytest.mark.parametrize("value", [{"a": [1, None]}, 4.5, None, [], "text"])
def test_what_is_glued_is_encoded_as_scrapbook_has_it(value: Any) -> None:
    assert encoded(value) == ("text" if isinstance(value, str) else "json", value)


def test_what_no_encoder_takes_is_refused() -> None:
    with pytest.raises(TypeError):
        encoded(object())

"""Metadata and sizes of notebooks as other programs leave them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_server_jupyter import notebooks
from mcp_server_jupyter.errors import InvalidNotebook

ODD: list[Any] = [None, True, 0, 1.5, "text", "", [], ["name"], {}, {"name": 5}, {"name": []}, {"name": None}]


@pytest.mark.parametrize("odd", ODD)
def test_a_kernelspec_that_is_none_names_no_kernel(odd: Any) -> None:
    for metadata in ({"kernelspec": odd}, {"language_info": odd}, odd):
        assert notebooks.kernelspec_name({"metadata": metadata}) is None
        assert notebooks.language({"metadata": metadata}) is None
    assert notebooks.kernelspec_name({}) is None


def test_the_kernelspec_and_the_language_are_found_where_programs_put_them() -> None:
    whole = {"metadata": {"kernelspec": {"name": "ir", "language": "R"}, "language_info": {"name": "other"}}}
    assert (notebooks.kernelspec_name(whole), notebooks.language(whole)) == ("ir", "R")
    assert (
        notebooks.language({"metadata": {"kernelspec": {"name": "x"}, "language_info": {"name": "julia"}}}) == "julia"
    )


@pytest.mark.parametrize("part", ["metadata", "cells"])
@pytest.mark.parametrize("odd", [value for value in ODD if not isinstance(value, list | dict)])
def test_a_notebook_whose_parts_are_none_is_refused(part: str, odd: Any) -> None:
    value = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5, part: odd}
    with pytest.raises(InvalidNotebook):
        notebooks.check_root(notebooks.node(value))


@pytest.mark.parametrize(
    "output",
    [
        "text",
        {},
        {"output_type": 1},
        {"output_type": "stream"},
        {"output_type": "stream", "name": 1, "text": ""},
        {"output_type": "stream", "name": "stdout", "text": [1]},
        {"output_type": "error", "ename": 1, "evalue": "", "traceback": []},
        {"output_type": "error", "ename": "", "evalue": [], "traceback": []},
        {"output_type": "error", "ename": "", "evalue": "", "traceback": "text"},
        {"output_type": "error", "ename": "", "evalue": "", "traceback": [1]},
        {"output_type": "display_data", "data": [], "metadata": {}},
        {"output_type": "display_data", "data": {}, "metadata": []},
    ],
)
def test_an_output_that_is_none_is_refused(output: Any) -> None:
    cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": [output], "execution_count": None}
    with pytest.raises(InvalidNotebook, match="outputs"):
        notebooks.check_cell(cell)


@pytest.mark.parametrize(
    "value",
    ["", "x" * 100, [1] * 50, {"a" * 60: "b"}, [{"text": ["y" * 30] * 3}], 1, {"cells": [{"source": "z" * 90}]}],
)
def test_what_exceeds_a_size_has_json_of_more_characters(value: Any) -> None:
    written = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
    for size in range(0, 200, 10):
        if notebooks.exceeds(value, size):
            assert written > size
    assert notebooks.exceeds(value, written // 4 - 1)


def test_a_size_is_found_without_looking_at_everything() -> None:
    class Counted(list[str]):
        looked = 0

        def __iter__(self) -> Any:
            for item in super().__iter__():
                Counted.looked += 1
                yield item

    assert notebooks.exceeds(Counted(["x" * 1_000] * 10_000), 50_000)
    assert Counted.looked < 100

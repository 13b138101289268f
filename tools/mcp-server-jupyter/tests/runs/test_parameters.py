"""Parameters that a notebook does not declare are told of: mostly slips of the pen."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server_jupyter.notebooks import node
from mcp_server_jupyter.runs.parameters import undeclared


def notebook(*sources: str) -> Any:
    cells = [{"cell_type": "code", "source": source, "metadata": {"tags": ["parameters"]}} for source in sources]
    return node({"cells": cells, "metadata": {}})


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["month = 1\nyear: int = 2026"], ["mnoth"]),
        (["month, mnoth = 1, 2\nyear = 0"], []),
        (["this is no Python"], ["month", "mnoth", "year"]),
        ([], []),
    ],
)
def test_parameters_that_are_not_declared_are_named(sources: list[str], expected: list[str]) -> None:
    assert undeclared(notebook(*sources), {"month": 3, "mnoth": 3, "year": 1}) == expected

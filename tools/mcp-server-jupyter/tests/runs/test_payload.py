"""What is sent to the gateway is made whole, or refused with a reason."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest

from mcp_server_jupyter.runs import Refused, read_payload
from mcp_server_jupyter.runs.payload import check_kernel

CELL: dict[str, Any] = {"cell_type": "code", "source": "1", "metadata": {}}
NOTEBOOK: dict[str, Any] = {"cells": [CELL]}


@pytest.mark.parametrize(
    "body",
    [
        NOTEBOOK,
        {"notebook": NOTEBOOK},
        [{"notebook": NOTEBOOK}],
        {"json": {"notebook": NOTEBOOK}},
        {"body": NOTEBOOK},
        [{"json": {"body": {"notebook": NOTEBOOK}}}],
        {"notebook": '{"cells": [{"source": "1"}]}'},
    ],
)
def test_a_notebook_is_found_however_it_is_wrapped(body: Any) -> None:
    assert [cell.source for cell in read_payload(body).notebook.cells] == ["1"]


def test_what_may_be_absent_of_a_notebook_is_added() -> None:
    made = read_payload({"cells": [{"source": ["a = 1\n", "a"]}, {"cell_type": "markdown", "source": "# A"}]}).notebook
    nbformat.validate(made)
    assert (made.nbformat, made.nbformat_minor) == (4, 5)
    assert [cell.source for cell in made.cells] == ["a = 1\na", "# A"]


def test_outputs_and_doubled_ids_that_were_sent_are_not_kept() -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "old"}
    cells = [{**CELL, "id": "same", "outputs": [output], "execution_count": 7}, {**CELL, "id": "same", "outputs": "?"}]
    made = read_payload({"cells": cells}).notebook
    assert [(cell.outputs, cell.execution_count) for cell in made.cells] == [([], None)] * 2
    assert made.cells[0]["id"] == "same" != made.cells[1]["id"]


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ([], "invalid_notebook"),
        ([NOTEBOOK, NOTEBOOK], "invalid_notebook"),
        (5, "invalid_notebook"),
        (None, "invalid_notebook"),
        ({}, "invalid_notebook"),
        ({"json": 5}, "invalid_notebook"),
        ({"notebook": "{"}, "invalid_notebook"),
        ({"notebook": 5}, "invalid_notebook"),
        ({"cells": 5}, "invalid_notebook"),
        ({"cells": [5]}, "invalid_notebook"),
        ({"cells": [{"cell_type": 5}]}, "invalid_notebook"),
        ({"cells": [{"source": 5}]}, "invalid_notebook"),
        ({"cells": [{"metadata": 5}]}, "invalid_notebook"),
        ({"cells": [], "metadata": 5}, "invalid_notebook"),
        ({"cells": [], "nbformat": 3}, "invalid_notebook"),
        ({"notebook": NOTEBOOK, "parameters": 5}, "invalid_parameters"),
        ({"notebook": NOTEBOOK, "parameters": {"a b": 1}}, "invalid_parameters"),
        ({"notebook": NOTEBOOK, "parameters": {"import": 1}}, "invalid_parameters"),
    ],
)
def test_what_cannot_be_run_is_refused(body: Any, error_type: str) -> None:
    with pytest.raises(Refused) as refused:
        read_payload(body)
    assert refused.value.failure.error_type == error_type


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({}, False),
        ({"kernelspec": {"name": "python3"}}, False),
        ({"kernelspec": {"name": "python3", "language": "Python"}}, False),
        ({"kernelspec": {"name": "bash"}}, True),
        ({"kernelspec": {"name": "python3", "language": "R"}}, True),
        ({"language_info": {"name": "julia"}}, True),
    ],
)
def test_only_kernels_and_languages_that_are_allowed_are_run(metadata: Any, refused: bool) -> None:
    made = read_payload({"cells": [], "metadata": metadata}).notebook
    if not refused:
        assert check_kernel(made, "python3", ("python3", "python"), ("python",)) == "python3"
        return
    with pytest.raises(Refused) as error:
        check_kernel(made, "python3", ("python3", "python"), ("python",))
    assert error.value.failure.error_type == "invalid_kernel"

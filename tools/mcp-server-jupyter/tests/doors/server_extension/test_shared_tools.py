"""Our tools as plain functions, for what serves those of every package. `make e2e-jupyter` has the real one."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from mcp_server_jupyter.doors.server_extension import shared_tools
from mcp_server_jupyter.errors import Unavailable
from mcp_server_jupyter.operations import OPERATIONS
from mcp_server_jupyter.operations.bind import parameters

pytestmark = pytest.mark.anyio


def function(spec: str) -> Any:
    """As jupyter-server-mcp finds it."""
    module, _, name = spec.rpartition(":")
    return getattr(import_module(module), name)


def test_every_operation_is_a_function_with_its_own_arguments() -> None:
    functions = {each.__name__: each for each in map(function, shared_tools.names())}

    assert set(functions) == {f"nb_{name}" for name in OPERATIONS}
    for name, operation in OPERATIONS.items():
        taken = inspect.signature(functions[f"nb_{name}"]).parameters
        assert list(taken) == list(parameters(operation))
        assert [each.default is inspect.Parameter.empty for each in taken.values()] == [
            each.required for each in parameters(operation).values()
        ]
        assert functions[f"nb_{name}"].__doc__


@pytest.mark.parametrize("name", ["nb_nothing", "list_notebooks", "nothing"])
def test_there_are_no_others(name: str) -> None:
    assert not hasattr(shared_tools, name)


async def test_without_the_extension_a_call_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match="not loaded"):
        await function(shared_tools.names()[0])()

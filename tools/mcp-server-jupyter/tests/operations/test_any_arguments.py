"""Whatever a caller sends, each operation answers or refuses it with an error of ours."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server_jupyter.errors import InvalidRequest, JupyterMcpError
from mcp_server_jupyter.operations import ALIASES, ARGUMENT_ALIASES, OPERATIONS, Answer, Caller
from mcp_server_jupyter.operations.bind import Parameter, check_arguments, invoke, parameters
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

CALLS = 20

TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(["\ud800", "a\0b", "\n", "../..", "x" * 5_000, "💥"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**4000), 2**63, 1e308, math.nan, -math.inf])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=8,
)


def _nested(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


def _mostly(usual: list[Any], odd: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([*usual * 4, *odd])


# What stands in braces is what an earlier call's answer named.
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "notebook_path": _mostly(["", "a.ipynb"], ["sub/b.ipynb", "gone.ipynb", "a.txt", "/etc/passwd", "\ud800.ipynb"]),
    "path": st.sampled_from(["", ".", "sub", "gone", "..", "\ud800"]),
    "cell_index": st.none() | st.integers(-3, 5),
    "to_index": st.integers(-1, 5),
    "start": st.integers(0, 2),
    "limit": st.integers(1, 3),
    "cursor": st.integers(0, 5),
    "cell_type": st.sampled_from(["code", "markdown", "raw"]),
    "cell_source": st.sampled_from(["1", "1/0", "print('x')", "x = '\ud800'", "a\nb", "", "\0", "# \u2028"]),
    "code": st.sampled_from(["1", "1/0", "x = 3", "'\ud800'", "print('\\ud800')", "\0"]),
    "cell_id": _mostly([None, "{cell}"], ["gone", "\ud800"]),
    "kernel_id": _mostly(["", "{kernel}"], ["gone", "\ud800"]),
    "expected_hash": _mostly([None], ["0" * 12, "\ud800"]),
    "kernel_name": _mostly(["", "python3"], ["gone", "\ud800"]),
    "cwd": _mostly(["", "sub"], ["gone", "..", "\ud800"]),
    "python": st.just(""),
    "execution_id": _mostly(["{execution}"], ["", "gone", "\ud800"]),
    "old_string": st.sampled_from(["1", "x", "", "\ud800"]),
    "name": st.sampled_from(["x", "x.y", "x[0]", "-" * 900 + "x", "(" * 900, "x" + "[0]" * 300, "\ud800", "\0", "1/0"]),
    "timeout_seconds": st.sampled_from([0, 0.01, None]),
    "wait_seconds": st.sampled_from([0, 0.01]),
    "author": st.sampled_from(["", "agent", "nobody", "\ud800"]),
    "turn": _mostly(["", "{turn}"], ["gone", "\ud800"]),
}


@st.composite
def a_call(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """One call: arguments that could be right, and in every other call one that is anything."""
    name = draw(st.sampled_from([*OPERATIONS, *OPERATIONS, *ALIASES]))
    known = parameters(OPERATIONS[ALIASES.get(name, name)])
    arguments = {p.name: draw(_value(p)) for p in known.values() if p.required or draw(st.booleans())}
    if draw(st.booleans()):
        odd = draw(st.sampled_from([*known, *ARGUMENT_ALIASES]) | TEXT)
        arguments[odd] = draw(JSON | st.integers(1, 2_000).map(_nested))
    return name, arguments


def _value(parameter: Parameter) -> st.SearchStrategy[Any]:
    return PLAUSIBLE.get(parameter.name, st.booleans() if parameter.kind is bool else TEXT)


@asynccontextmanager
async def _services(folder: Path) -> AsyncIterator[Services]:
    (folder / "root" / "sub").mkdir(parents=True)
    given = {"root": folder / "root", "state_dir": folder / "state", "contents": "memory", "kernels": "memory"}
    async with open_services(Settings.load({**given, "notebook": "a.ipynb", "wait_seconds": 0.2}, {})) as services:
        yield services


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="module")
def services(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with portal.wrap_async_context_manager(_services(tmp_path_factory.mktemp("any"))) as services:
        yield services


async def _answered(services: Services, calls: list[tuple[str, dict[str, Any]]]) -> None:
    seen: dict[str, Any] = {}
    for name, drawn in calls:
        arguments = {key: _filled(value, seen) for key, value in drawn.items()}
        try:
            answer = await invoke(services, name, arguments, caller=Caller("agent"))
        except JupyterMcpError as error:
            said = str(error)
        else:
            assert isinstance(answer, Answer)
            said = answer.text
            json.dumps(answer.data)
            seen |= {key.removesuffix("_id"): value for key, value in answer.data.items() if value is not None}
        assert 0 < len(said) < 20_000, (name, arguments)


def _filled(value: Any, seen: dict[str, Any]) -> Any:
    named = isinstance(value, str) and value[:1] == "{" and value[-1:] == "}"
    return seen.get(value[1:-1], value) if named else value


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(a_call(), min_size=CALLS, max_size=CALLS))
def test_two_thousand_calls_are_answered_or_refused(
    portal: BlockingPortal, services: Services, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    portal.call(_answered, services, calls)


# The memory kernel stops a cell by an exception in its thread, which may hit a callback of hypothesis there.
@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(a_call(), min_size=CALLS, max_size=CALLS))
def test_twenty_thousand_calls_are_answered_or_refused(
    portal: BlockingPortal, services: Services, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    portal.call(_answered, services, calls)


@pytest.mark.parametrize(
    "arguments", [[], "text", 7, None, _nested(2_000)], ids=["list", "text", "number", "null", "deep"]
)
def test_arguments_that_are_no_object_are_refused(arguments: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be an object"):
        check_arguments(OPERATIONS["list_files"], arguments)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**400, -(10**5000)],
    ids=lambda v: str(v)[:5] if isinstance(v, float) else "huge",
)
def test_numbers_beyond_all_limits_are_refused(value: float) -> None:
    for operation, name in (("get_execution", "wait_seconds"), ("read_cell", "cell_index")):
        with pytest.raises(InvalidRequest, match=name):
            check_arguments(
                OPERATIONS[operation], {"execution_id": "x", name: value} if "x" in operation else {name: value}
            )


def test_one_argument_given_under_two_names_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="path and notebook both mean notebook_path"):
        check_arguments(OPERATIONS["read_cell"], {"path": "a.ipynb", "notebook": "b.ipynb", "cell_index": 0})


def test_a_message_never_repeats_a_huge_name() -> None:
    for name, arguments in (("read_cell", {"x" * 100_000: 1}), ("insert_cell", {"cell_type": "y" * 100_000})):
        with pytest.raises(InvalidRequest) as refused:
            check_arguments(OPERATIONS[name], arguments)
        assert len(str(refused.value)) < 500

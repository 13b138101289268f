"""Terminals of a real Jupyter: over its API, and by its manager in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from jupyter_server_terminals.terminalmanager import TerminalManager

from a_jupyter import TOKEN, Jupyter
from mcp_server_jupyter.backends.jupyter.in_process.terminals import ManagedTerminals
from mcp_server_jupyter.backends.jupyter.terminals import open_terminals
from mcp_server_jupyter.errors import NotFound, Unsupported
from mcp_server_jupyter.operations import Caller, offered
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.operations.terminals import plain_lines
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.terminals import Terminals

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("jupyter-terminals")]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """One that has terminals, as every Jupyter has that is not told otherwise."""
    server = Jupyter(tmp_path_factory.mktemp("terminals"))
    try:
        yield server.start()
    finally:
        server.close()


def settings_of(jupyter: Jupyter, folder: Path, **more: Any) -> Settings:
    given = {"root": folder, "state_dir": folder / "state", "jupyter_url": jupyter.url, "jupyter_token": TOKEN}
    return Settings.load({**given, **more}, environ={})


@asynccontextmanager
async def in_process() -> AsyncIterator[ManagedTerminals]:
    manager = TerminalManager(shell_command=["sh"])
    serverapp = SimpleNamespace(web_app=SimpleNamespace(settings={"terminal_manager": manager}))
    try:
        async with ManagedTerminals(serverapp) as terminals:
            yield terminals
    finally:
        await manager.terminate_all()
        manager.blocking_io_executor.shutdown()


@pytest.fixture(params=["jupyter", "serverapp"])
async def terminals(request: pytest.FixtureRequest, jupyter: Jupyter, tmp_path: Path) -> AsyncIterator[Terminals]:
    if request.param == "serverapp":
        async with in_process() as managed:
            yield managed
    else:
        async with open_terminals(settings_of(jupyter, tmp_path)) as remote:
            yield remote


async def written(terminals: Terminals, name: str, expected: str) -> None:
    """Wait until something has been answered.

    What is typed before a shell prints its prompt is answered in the prompt's line, so what was typed must not end as
    the answer does.
    """
    with anyio.fail_after(PATIENCE):
        while not _answered(await terminals.read(name), expected):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.05)


def _answered(text: str, expected: str) -> bool:
    return any(line == expected or line.endswith(f" {expected}") for line in plain_lines(text))


async def test_what_is_typed_is_answered_and_kept_for_whoever_comes_later(terminals: Terminals) -> None:
    made = await terminals.create()
    assert made.name in {each.name for each in await terminals.list()}
    await terminals.write(made.name, "echo $((40+2))\r")
    await written(terminals, made.name, "42")
    await terminals.write(made.name, "printf '\\033[31m%s\\033[0m\\n' re''d; seq 3000 $((4000-1))\r")
    await written(terminals, made.name, "3999")
    # All of it, and not only the last thing that was written.
    text = await terminals.read(made.name)
    assert all(_answered(text, each) for each in ("42", "red", "3000", "3500"))


async def test_a_terminal_that_is_not_there_is_not_found_and_none_is_made(terminals: Terminals) -> None:
    before = await terminals.list()
    with pytest.raises(NotFound):
        await terminals.read("nobody's")
    with pytest.raises(NotFound):
        await terminals.write("nobody's", "touch it\r")
    assert len(await terminals.list()) == len(before)


async def test_a_jupyter_without_terminals_says_so(tmp_path: Path) -> None:
    async with ManagedTerminals(SimpleNamespace(web_app=SimpleNamespace(settings={}))) as terminals:
        with pytest.raises(Unsupported):
            await terminals.list()
    server = Jupyter(tmp_path, "--ServerApp.terminals_enabled=False")
    try:
        server.start()
        async with open_terminals(settings_of(server, tmp_path)) as terminals:
            for asked in (terminals.list, terminals.create):
                with pytest.raises(Unsupported):
                    await asked()
    finally:
        server.close()


async def test_a_command_is_typed_only_where_that_is_allowed(jupyter: Jupyter, tmp_path: Path) -> None:
    for allowed in (False, True):
        settings = settings_of(jupyter, tmp_path, allow_terminal=allowed)
        assert ("run_in_terminal" in {each.name for each in offered(settings)}) is allowed
        async with open_services(settings) as services:

            async def run(operation: str, /, **arguments: Any) -> str:
                return (await invoke(services, operation, arguments, caller=Caller("test"))).text

            if not allowed:
                with pytest.raises(Unsupported, match="--allow-terminal"):
                    await run("run_in_terminal", command="true")
                continue
            shown = await run("run_in_terminal", command="echo $((40+2))")
            name = shown.splitlines()[0].removeprefix("Terminal ").rstrip(":")
            assert name in await run("list_terminals")
            assert services.terminals is not None
            # A shell that starts slowly answers after the wait.
            await written(services.terminals, name, "42")
            assert _answered(await run("read_terminal", name=name, lines=3), "42")
            assert len((await run("read_terminal", name=name, lines=1)).splitlines()) == 2
            assert "list_terminals" in str((await refused(run("read_terminal", name="none"))).hint)


async def refused(call: Any) -> NotFound:
    with pytest.raises(NotFound) as error:
        await call
    return error.value


def test_a_place_without_a_jupyter_offers_no_terminals(tmp_path: Path) -> None:
    settings = Settings.load({"root": tmp_path, "state_dir": tmp_path, "allow_terminal": True}, environ={})
    assert not {"list_terminals", "read_terminal", "run_in_terminal"} & {each.name for each in offered(settings)}


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        ("$ ls\r\na\r\nb\r\n$ ", ["$ ls", "a", "b", "$"]),
        ("\x1b[?2004h\x1b[01;32mred\x1b[0m\x07 done\r\n", ["red done"]),
        ("\x1b]0;a title\x07$ x\r\n", ["$ x"]),
        ("10%\r50%\r100%\r\nend", ["100%", "end"]),
        ("lss\b \b\r\nok\r\n\r\n\r\n", ["ls", "ok"]),
        ("", []),
    ],
)
def test_text_is_shown_without_control_codes(raw: str, lines: list[str]) -> None:
    assert plain_lines(raw) == lines

"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
import typing
from pathlib import Path
from typing import Any

import click
import pytest

from mcp_server_jupyter import errors
from mcp_server_jupyter.cli import commands
from mcp_server_jupyter.operations import OPERATIONS
from mcp_server_jupyter.settings import Settings

PACKAGE = Path(__file__).resolve().parents[1]
TOP = PACKAGE.parents[1]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md"), *TOP.glob("deploy/*/README.md"), PACKAGE / "README.md"])


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(PACKAGE / "scripts" / "make_docs.py"))


@pytest.mark.parametrize("name", ["tools.md", "settings.md", "commands.md"])
def test_generated_pages_say_what_the_code_says(generator: dict[str, Any], name: str) -> None:
    """Mend it with `python scripts/make_docs.py`."""
    assert (TOP / "docs" / name).read_text() == generator["PAGES"][name]().rstrip() + "\n"


def sections(name: str) -> dict[str, str]:
    """A generated page's sections by their heading."""
    parts = re.split(r"^## (.+)$", (TOP / "docs" / name).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, without the heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for at, row in enumerate(cells) if set("".join(row)) != {"-"} and not _is_head(cells, at)]


def _is_head(cells: list[list[str]], at: int) -> bool:
    return at + 1 < len(cells) and set("".join(cells[at + 1])) == {"-"}


TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def documented_type(hint: Any) -> str:
    """How the page must name the type of an argument with this annotation."""
    limits = []
    while typing.get_origin(hint) is not None:
        origin, given = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Literal:
            return " or ".join(f"`{choice}`" for choice in given)
        if origin is typing.Annotated:
            limits = [f"from {given[1].ge:g}"] if given[1].ge is not None else []
            limits += [f"to {given[1].le:g}"] if given[1].le is not None else []
        hint = next(one for one in given if one is not type(None))
    return " ".join([TYPES[hint], *limits])


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_tools_documented_arguments_are_those_of_its_function(name: str) -> None:
    function = OPERATIONS[name].run
    hints = typing.get_type_hints(function, include_extras=True)
    taken = list(inspect.signature(function).parameters.values())[1:]
    wanted = [
        [
            f"`{parameter.name}`",
            documented_type(hints[parameter.name]),
            "required"
            if parameter.default is parameter.empty
            else ""
            if parameter.default in (None, "")
            else f"`{parameter.default}`",
        ]
        for parameter in taken
    ]
    assert rows(sections("tools.md")[name]) == wanted


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_tool_says_what_it_does_what_its_notes_are_about_and_what_it_raises(name: str) -> None:
    function = OPERATIONS[name].run
    text = sections("tools.md")[name]
    first = (inspect.getdoc(function) or "").split("\n")[0]
    assert first.endswith((".", ":"))
    assert first in text
    for noted in re.findall(r"^    (\w+):", _part(inspect.getdoc(function) or "", "Args"), re.MULTILINE):
        assert noted in inspect.signature(function).parameters
    for raised in re.findall(r"^    (\w+)", _part(inspect.getdoc(function) or "", "Raises"), re.MULTILINE):
        assert issubclass(getattr(errors, raised), errors.JupyterMcpError)
        assert f"- `{raised}`" in text


def _part(docstring: str, name: str) -> str:
    return docstring.partition(f"{name}:\n")[2].split("\n\n")[0]


def test_tools_are_documented_in_the_order_they_are_listed() -> None:
    assert list(sections("tools.md"))[: len(OPERATIONS)] == list(OPERATIONS)


def test_documented_settings_are_read_as_they_are_documented(tmp_path: Path) -> None:
    """By each of their variables; the default stands where it is not a folder of the machine's."""
    (tmp_path / "elsewhere").mkdir()
    documented = {row[0].split("`")[1].split(",")[0]: row for row in rows((TOP / "docs" / "settings.md").read_text())}
    fields = {f"--{field.name.replace('_', '-')}": field for field in dataclasses.fields(Settings)}
    assert documented.keys() == fields.keys()
    hints = typing.get_type_hints(Settings)
    defaults = Settings.load({}, {})
    for flag, (_, variables, default, text) in documented.items():
        field = fields[flag]
        assert text == field.metadata["help"]
        if field.name not in ("root", "state_dir"):
            usual = getattr(defaults, field.name)
            assert default == ("" if usual in (None, ()) else f"`{usual}`")
        for variable in re.findall(r"`([A-Z_]+)`", variables):
            given, wanted = _another(hints[field.name], getattr(defaults, field.name), tmp_path / "elsewhere")
            if field.name.endswith("_url"):
                given = wanted = "http://elsewhere/"
            assert getattr(Settings.load({}, {variable: given}), field.name) == wanted, variable


def _another(hint: Any, usual: Any, folder: Path) -> tuple[str, Any]:
    """A value that is not the default, as a variable holds it and as the setting has it."""
    if hint is bool:
        return ("no" if usual else "yes"), not usual
    if hint in (int, float):
        return str(usual + 1), usual + 1
    if hint in (Path, Path | None):
        return str(folder), folder
    if typing.get_origin(hint) is tuple:
        return "a, b", ("a", "b")
    if typing.get_origin(hint) is typing.Literal:
        other = next(choice for choice in typing.get_args(hint) if choice != usual)
        return other, other
    return "another", "another"


def test_documented_commands_take_what_is_documented() -> None:
    documented = sections("commands.md")
    every = {"mcp-server-jupyter": commands, **{f"mcp-server-jupyter {k}": v for k, v in commands.commands.items()}}
    assert documented.keys() == every.keys()
    settings = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)}
    for heading, command in every.items():
        names, own = {name.strip("`") for row in rows(documented[heading]) for name in row[0].split(", ")}, set()
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                own.add(parameter.human_readable_name)
            elif not settings & set(parameter.opts):
                own.update(parameter.opts)
        assert names == own, heading
        assert inspect.cleandoc(command.help or "").split("\n")[0] in documented[heading]


def test_every_command_is_in_the_readme_or_the_deployment_guide() -> None:
    text = (TOP / "README.md").read_text() + (TOP / "DEPLOYMENT.md").read_text()
    for name in commands.commands:
        assert f"mcp-server-jupyter {name}" in text or name == "kernels", name


def test_every_route_is_documented() -> None:
    doors = PACKAGE / "src" / "mcp_server_jupyter" / "doors"
    files = [*doors.glob("http/*.py"), *doors.glob("editor/*.py")]
    routes = {route for file in files for route in re.findall(r'Route\(\s*"([^"]+)"', file.read_text())}
    assert {"/health", "/api/editor/{window}"} <= routes
    text = (TOP / "docs" / "http.md").read_text()
    routes.discard("/{path:path}")  # refuses whatever is asked of a server that waits for its turn
    missing = {route for route in routes if not re.search(rf"[` ]{re.escape(route.rstrip('/') or '/')}`", text)}
    assert missing == set()


def test_every_route_of_editors_is_in_the_page_of_their_protocol() -> None:
    files = (PACKAGE / "src" / "mcp_server_jupyter" / "doors" / "editor").glob("*.py")
    routes = {route for file in files for route in re.findall(r'Route\(\s*"([^"]+)"', file.read_text())}
    headings = re.findall(r"^## [A-Z]+ (\S+)", (TOP / "docs" / "editor-protocol.md").read_text(), re.MULTILINE)
    assert {re.sub(r":path\}", "}", route) for route in routes} <= set(headings)


def test_the_readme_is_short() -> None:
    assert len((TOP / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_make_target_named_in_the_docs_exists() -> None:
    makefiles = [TOP / "Makefile", *TOP.glob("deploy/*/Makefile.inc")]
    targets = {name for file in makefiles for name in re.findall(r"^([a-z0-9-]+):", file.read_text(), re.MULTILINE)}
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z0-9-]+)", page.read_text())}
    assert named <= targets, named - targets

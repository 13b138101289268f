"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from mcp_server_jupyter.cli import commands
from mcp_server_jupyter.operations import OPERATIONS

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


def test_every_tool_argument_and_error_is_described() -> None:
    for operation in OPERATIONS.values():
        assert operation.run.__doc__, operation.name
        assert len(operation.doc) > 3, operation.name


def test_every_command_is_in_the_readme_or_the_deployment_guide() -> None:
    text = (TOP / "README.md").read_text() + (TOP / "DEPLOYMENT.md").read_text()
    for name in commands.commands:
        assert f"mcp-server-jupyter {name}" in text or name == "kernels", name


def test_every_route_is_documented() -> None:
    source = (PACKAGE / "src" / "mcp_server_jupyter" / "doors" / "http" / "server.py").read_text()
    routes = set(re.findall(r'Route\(\s*"([^"]+)"', source))
    assert routes
    text = (TOP / "docs" / "http.md").read_text()
    missing = {route for route in routes if not re.search(rf"[` ]{re.escape(route.rstrip('/') or '/')}`", text)}
    assert missing == set()


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

"""A server's services at hand, for tests that look at what runs in them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from mcp_server_jupyter.execution.execution import Execution
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.ports import Contents, Kernels
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.terminals import Terminals


def settings_of(folder: Path, **more: Any) -> Settings:
    """Of a root and a state directory below `folder`, with kernels in memory and the notebook a.ipynb."""
    (folder / "root").mkdir(exist_ok=True)
    given = {"root": folder / "root", "state_dir": folder / "state", "kernels": "memory", "notebook": "a.ipynb", **more}
    return Settings.load(given, {})


class Desk:
    """One server's services and its notebook a.ipynb."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def call(self, operation: str, /, author: str = "tester", **arguments: Any) -> Answer:
        with anyio.fail_after(60):
            return await invoke(self.services, operation, arguments, caller=Caller(author))

    async def cells(self) -> list[Any]:
        """The cells as the file has them."""
        await self.services.contents.flush()
        found: list[Any] = json.loads(await anyio.Path(self.file).read_text())["cells"]
        return found

    @property
    def file(self) -> Path:
        return self.services.settings.root / "a.ipynb"

    def execution(self, answer: Answer) -> Execution:
        found = self.services.executions.get(answer.data["execution_id"])
        assert found is not None
        return found

    async def until_text(self, index: int, text: str) -> None:
        """Wait until a cell shows it."""
        with anyio.fail_after(60):
            changes = self.services.contents.changes()
            while text not in shown((await self.services.contents.read("a.ipynb")).cells[index]):
                await anext(changes)


@asynccontextmanager
async def open_desk(
    settings: Settings,
    *,
    contents: Contents | None = None,
    kernels: Kernels | None = None,
    terminals: Terminals | None = None,
) -> AsyncIterator[Desk]:
    async with open_services(settings, contents=contents, kernels=kernels, terminals=terminals) as services:
        yield Desk(services)


def shown(cell: Any) -> str:
    """The text of a cell's outputs."""
    texts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]]
    return "".join(text if isinstance(text, str) else "".join(text) for text in texts)

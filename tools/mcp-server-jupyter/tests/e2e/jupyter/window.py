"""JupyterLab in a real browser, and a person before it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from lab import python_of, until

from a_jupyter import TOKEN, Jupyter

REPOSITORY = Path(__file__).parents[5]
SHOTS = Path(__file__).parent / "shots"
_SOURCES = ".jp-Notebook .jp-Cell .jp-InputArea .cm-content"
WITHOUT_NPM = 77
# What the extension's own tests install where none is there.
_BROWSER = "import { setUpBrowser } from './e2e/setup.ts'; console.log(setUpBrowser());"


@asynccontextmanager
async def open_browser() -> AsyncIterator[Any]:
    """A Chromium without a screen, driven by Playwright from an environment of its own."""
    program = await anyio.to_thread.run_sync(_program)
    (packages,) = Path(python_of("browser")).parents[1].glob("lib/python*/site-packages")
    # Behind everything else: nothing that is installed here is to be replaced.
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            await browser.close()


def _program() -> str:
    """Chromium, installed where it is not there and we may."""
    script = [str(REPOSITORY / "vscode-extension/scripts/with-node"), "node", "--input-type=module", "-e", _BROWSER]
    ended = subprocess.run(script, check=False, capture_output=True, text=True)
    if ended.returncode == WITHOUT_NPM:
        pytest.skip("npm is not installed: nobody looks for a browser, and JupyterLab is not driven in one.")
    if ended.returncode:
        why = [line for line in ended.stderr.splitlines() if "Error: " in line] or [ended.stderr]
        pytest.fail(f"JupyterLab cannot be driven in a browser. {why[0]}", pytrace=False)
    return ended.stdout.strip()


class Window:
    """One tab with a notebook open."""

    def __init__(self, page: Any, jupyter: Jupyter) -> None:
        self.page = page
        self._jupyter = jupyter

    async def open(self, name: str = "a.ipynb") -> None:
        """Open a notebook, and return once it is there with an idle kernel."""
        await self.page.goto(f"{self._jupyter.url}lab/tree/{name}?reset&token={TOKEN}")
        await self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        await self.page.get_by_text("| Idle").first.wait_for()

    async def sources(self) -> list[str]:
        """What the cells say, as they are shown."""
        found = await self.page.eval_on_selector_all(
            _SOURCES,
            "all => all.map(each => [...each.querySelectorAll('.cm-line')].map(line => line.textContent).join('\\n'))",
        )
        return list(found)

    async def outputs(self) -> str:
        return "\n".join(await self.page.locator(".jp-Notebook .jp-OutputArea-output").all_inner_texts())

    async def shows(self, *sources: str) -> None:
        """Return once these are the cells."""

        async def so() -> bool:
            return await self.sources() == list(sources)

        await until(so, lambda: self.sources())

    async def shows_output(self, text: str) -> None:
        async def so() -> bool:
            return text in await self.outputs()

        await until(so, lambda: self.outputs())

    async def click(self, index: int) -> None:
        """Put the cursor at the end of a cell."""
        await self.page.locator(_SOURCES).nth(index).click()
        await self.page.keyboard.press("Control+End")

    async def type(self, text: str, *, pause: float = 0) -> None:
        """Type where the cursor is; `pause` in milliseconds between keys."""
        await self.page.keyboard.type(text, delay=pause)

    async def press(self, key: str) -> None:
        await self.page.keyboard.press(key)

    async def picture(self, name: str) -> None:
        SHOTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=SHOTS / f"{name}.png")

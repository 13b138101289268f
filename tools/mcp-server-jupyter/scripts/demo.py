"""An agent's session, scripted: the official client works through the sample analysis with our server over stdio.

    python scripts/demo.py FOLDER [--picture FILE]

Writes FOLDER/analysis-demo.ipynb, executed, and prints what a client was answered; with `--picture` draws the session
into an SVG file, as the README shows it. Exits with 1 when a step did not go as an agent would expect.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

from picture import Exchange, draw

NOTEBOOK = "analysis-demo.ipynb"
QUESTION = """monthly = table.pivot(index="month", columns="station", values="temperature")
monthly.corr().round(2)"""
MISTAKE = 'warmest = tabel.loc[table["temperature"].idxmax()]\nwarmest'


class Demo:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.surprises: list[str] = []
        self.exchanges: list[Exchange] = []

    async def call(self, tool: str, *, expect: str = "", **arguments: Any) -> str:
        """Call a tool, show the exchange, and note an answer without the text it should have."""
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        print(f"\n\033[1m> {tool}({shown})\033[0m" if sys.stdout.isatty() else f"\n> {tool}({shown})")
        result = await self._client.call_tool(tool, {"notebook_path": NOTEBOOK, **arguments}, read_timeout_seconds=120)
        text = "\n".join(block.text for block in result.content if block.type == "text")
        images = [block for block in result.content if block.type == "image"]
        print("\n".join(f"  {line}" for line in text.splitlines()))
        self.exchanges.append(Exchange(f"{tool}({shown})", text, len(images)))
        for image in images:
            print(f"  [{image.mime_type}, {len(image.data) * 3 // 4:,} bytes]")
        if result.is_error or expect not in text:
            self.surprises.append(f"{tool}: no {expect!r} in its answer.")
        return text


async def main(folder: Path) -> list[Exchange]:
    sample = files("mcp_server_jupyter").joinpath("sample")
    (folder / "measurements.csv").write_bytes(sample.joinpath("measurements.csv").read_bytes())
    (folder / NOTEBOOK).write_bytes(sample.joinpath("analysis.ipynb").read_bytes())
    command = shutil.which("mcp-server-jupyter", path=os.path.dirname(sys.executable)) or "mcp-server-jupyter"
    with tempfile.TemporaryDirectory() as state:
        arguments = ["--root", str(folder), "--state-dir", state, "--log-level", "error", "--embedded"]
        async with Client(StdioServerParameters(command=command, args=arguments)) as client:
            demo = Demo(client)
            await session(demo)
    print(f"\nWritten: {folder / NOTEBOOK}")
    if demo.surprises:
        sys.exit("\n".join(demo.surprises))
    return demo.exchanges


def draw_picture(exchanges: list[Exchange], notebook: Path, picture: Path) -> None:
    """The session and its notebook as an SVG file."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    picture.write_text(draw(_telling(exchanges), cells[3:5] + cells[8:]), encoding="utf-8")
    print(f"Drawn: {picture}")


def _telling(exchanges: list[Exchange]) -> list[Exchange]:
    """The steps that fit a picture: the first look, the question, the mistake and its repair."""
    return [exchanges[0], *exchanges[3:8]]


async def session(demo: Demo) -> None:
    await demo.call("get_notebook_info")
    await demo.call("run_all_cells", expect="5 ok")
    await demo.call("append_markdown_cell", cell_source="## Do the stations agree?")
    await demo.call("append_execute_code_cell", cell_source=QUESTION, expect="1.00")
    # A typing mistake and its repair: a traceback is an answer to read.
    answer = await demo.call("append_execute_code_cell", cell_source=MISTAKE, expect="NameError")
    cell = answer.split("id=")[1].split()[0]
    await demo.call("edit_cell_source", cell_id=cell, old_string="tabel", new_string="table")
    await demo.call("execute_cell_with_progress", cell_id=cell, expect=" ok ")
    await demo.call("inspect_variable", name="table", expect="360")
    await demo.call("get_notebook_info")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--picture", type=Path, metavar="FILE")
    given = parser.parse_args()
    told = anyio.run(main, given.folder.resolve())
    if given.picture is not None:
        draw_picture(told, given.folder / NOTEBOOK, given.picture)

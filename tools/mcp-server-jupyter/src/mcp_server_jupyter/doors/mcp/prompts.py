"""Prompts: ways of working in a notebook, for clients that offer them as commands."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage

_START = (
    "Work in the notebook {path} through the Jupyter tools. Look first: get_notebook_info, then the cells you need."
)

_TEXTS: dict[str, tuple[str, str]] = {
    "notebook_agent": (
        "Work in a notebook",
        _START
        + """
Then go step by step: a short markdown cell that says what comes and why, a code cell that does it, a look at its \
output before the next step. Keep cells small. Change a cell with edit_cell_source rather than adding a corrected \
copy. For long work use execute_cell_with_progress and get_execution; interrupt_kernel if it goes wrong. Leave the \
notebook so that run_all_cells succeeds from top to bottom.
Task: {task}""",
    ),
    "data_analysis": (
        "Analyse data",
        _START
        + """
1. Load the data; note shape, types, missing and implausible values (inspect_variable shows them without a cell).
2. Say in markdown what is wrong with the data and what you did about it.
3. Explore: summary statistics and a few plots that each answer one question.
4. Write the findings and their uncertainty in markdown, figures with units, and what to look at next.
Task: {task}""",
    ),
    "machine_learning": (
        "Build a model",
        _START
        + """
1. Prepare data and split it before anything is fitted; say how leakage is avoided.
2. Start with the simplest baseline, then one change at a time, each compared by cross-validation on the same folds.
3. Train long models with execute_cell_with_progress; set random seeds.
4. Report metrics with their spread, plot errors, look at the worst cases, and write down method, versions and limits.
Task: {task}""",
    ),
    "code_review": (
        "Review a notebook",
        _START
        + """
Change nothing. Read all cells and check: does it run from top to bottom (stale or out-of-order cells are marked in \
the outline), do outputs match the code, are names and structure clear, is anything repeated, slow, unsafe or random \
without a seed, are conclusions supported by what is shown? Answer with findings ordered by weight, each with its cell \
index and a concrete change.
Focus: {task}""",
    ),
}


def register(server: MCPServer[Any]) -> None:
    """Add the prompts to a server."""
    for name, (title, text) in _TEXTS.items():
        server.add_prompt(_prompt(name, title, text))


def _prompt(name: str, title: str, text: str) -> Prompt:
    async def render(notebook_path: str = "", task: str = "") -> list[UserMessage]:
        path = notebook_path or "(the default one)"
        return [UserMessage(text.format(path=path, task=task or "as the user says"))]

    return Prompt.from_function(render, name=name, title=title, description=title + ".")

"""Write docs/tools.md, docs/settings.md and docs/commands.md from the code: `python scripts/make_docs.py [--check]`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any, get_type_hints

import click

from mcp_server_jupyter.cli import commands
from mcp_server_jupyter.operations import ALIASES, ARGUMENT_ALIASES, OF_SOME_PLACES, OPERATIONS, Operation
from mcp_server_jupyter.operations.bind import Parameter, parameters
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.values import PREFIX

DOCS = Path(__file__).resolve().parents[3] / "docs"
GENERATED = "<!-- Written by tools/mcp-server-jupyter/scripts/make_docs.py: change the docstrings, then run it. -->\n"


def tools() -> str:
    parts = [GENERATED, "# Tools\n", TOOLS_INTRODUCTION]
    for operation in OPERATIONS.values():
        parts.append(_tool(operation))
    for operation in OF_SOME_PLACES.values():
        parts.append(_tool(operation))
    parts.append("## Other servers' names\n")
    parts.append("Accepted, not listed, so that prompts and clients written for another server work unchanged.\n")
    parts.append("| name | ours |\n|---|---|\n" + "".join(f"| `{a}` | `{o}` |\n" for a, o in ALIASES.items()))
    names = "".join(f"| `{a}` | {', '.join(f'`{o}`' for o in ours)} |\n" for a, ours in ARGUMENT_ALIASES.items())
    parts.append("| argument | ours, where the tool does not know the name itself |\n|---|---|\n" + names)
    return "\n".join(parts)


TOOLS_INTRODUCTION = """Every tool is one operation: the same over MCP (stdio and HTTP), as `POST /api/operations/NAME`
with the arguments as a JSON object, and as a bare JSON-RPC `POST`.

- `notebook_path` is relative to the root and optional everywhere: absent, it is the default notebook.
- A cell is named by `cell_index` (from 0; -1 is the last) or `cell_id`; answers carry both, and the cell's `hash`.
- An edit with `expected_hash` is refused with a diff when the cell has changed since.
- A tool that runs code answers when it is done or after its wait, then with an `execution_id` to go on with.
- Answers carry `kernel_epoch`; when it has risen, variables of earlier epochs are gone.
- A cell that raises is a result, not an error of the tool.
- Those of terminals are listed where the kernels are a Jupyter's; `run_in_terminal` only with `--allow-terminal`.
"""


def _tool(operation: Operation) -> str:
    hints = [
        "reads only" if operation.read_only else "",
        "destructive" if operation.destructive else "",
        "idempotent" if operation.idempotent else "",
        "runs code" if operation.open_world else "",
    ]
    kind = ", ".join(hint for hint in hints if hint)
    text = inspect.cleandoc(operation.run.__doc__ or "")
    known = parameters(operation)
    defaults = inspect.signature(operation.run).parameters
    rows = "".join(_argument(parameter, defaults[name].default) for name, parameter in known.items())
    table = f"\n| argument | type | default |\n|---|---|---|\n{rows}" if rows else ""
    return f"## {operation.name}\n\n*{operation.title}{f'; {kind}' if kind else ''}*\n\n{_markdown(text)}\n{table}"


def _markdown(docstring: str) -> str:
    lines = []
    for line in docstring.splitlines():
        if line in ("Args:", "Raises:"):
            lines.append(f"{line[:-1]}:\n")
        elif line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(":")
            lines.append(f"- `{name}`: {rest.strip()}" if colon else f"- `{name}`")
        else:
            lines.append(line.strip())
    return "\n".join(lines)


def _argument(parameter: Parameter, default: Any) -> str:
    schema = parameter.schema()
    kind = " or ".join(f"`{choice}`" for choice in parameter.choices) or schema["type"]
    limits = [f"from {schema['minimum']:g}"] if "minimum" in schema else []
    limits += [f"to {schema['maximum']:g}"] if "maximum" in schema else []
    shown = "required" if parameter.required else "" if default in ("", None) else f"`{default}`"
    return f"| `{parameter.name}` | {' '.join([kind, *limits])} | {shown} |\n"


def settings() -> str:
    parts = [GENERATED, "# Settings\n", SETTINGS_INTRODUCTION]
    hints = get_type_hints(Settings)
    groups: dict[str, list[str]] = {}
    for field in dataclasses.fields(Settings):
        flag = f"--{field.name.replace('_', '-')}"
        if hints[field.name] is bool:
            flag += ", --auth" if field.name == "no_auth" else f", --no-{field.name.replace('_', '-')}"
        names = ", ".join(f"`{name}`" for name in (PREFIX + field.name.upper(), *field.metadata["aliases"]))
        row = f"| `{flag}` | {names} | {_default(field)} | {field.metadata['help']} |\n"
        groups.setdefault(field.metadata["group"], []).append(row)
    for group, rows in groups.items():
        parts.append(
            f"## {group}\n\n| option | environment | default | what it does |\n|---|---|---|---|\n{''.join(rows)}"
        )
    return "\n".join(parts)


SETTINGS_INTRODUCTION = """Read once at the start, from options and the environment; an option wins. The names after the
first are those that guides of other servers use.
"""


def _default(field: dataclasses.Field[Any]) -> str:
    if field.name == "root":
        return "the current folder"
    if field.name == "state_dir":
        return "`$XDG_STATE_HOME/mcp-server-jupyter`, else `~/.local/state/mcp-server-jupyter`"
    if field.default in (None, (), "") or field.default is dataclasses.MISSING:
        return ""
    return f"`{field.default}`"


def commands_page() -> str:
    parts = [GENERATED, "# Commands\n", "Every command also takes the [settings](settings.md) as options.\n"]
    for name, command in [("", commands), *sorted(commands.commands.items())]:
        title = f"mcp-server-jupyter {name}".strip()
        parts.append(f"## {title}\n\n{inspect.cleandoc(command.help or '')}\n")
        own = [p for p in command.params if isinstance(p, click.Option) and p.name not in _setting_names()]
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        rows = [f"| `{p.human_readable_name}` | argument |\n" for p in arguments]
        rows += [f"| `{', '.join(p.opts)}` | {p.help or ''} |\n" for p in own]
        if rows:
            parts.append(f"| | |\n|---|---|\n{''.join(rows)}")
    return "\n".join(parts)


def _setting_names() -> set[str]:
    return {field.name for field in dataclasses.fields(Settings)}


PAGES = {"tools.md": tools, "settings.md": settings, "commands.md": commands_page}


def main() -> int:
    stale = [name for name, page in PAGES.items() if _read(name) != page().rstrip() + "\n"]
    if "--check" in sys.argv:
        print(f"stale: {', '.join(stale)}" if stale else "up to date")
        return 1 if stale else 0
    DOCS.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (DOCS / name).write_text(page().rstrip() + "\n", encoding="utf-8")
    return 0


def _read(name: str) -> str:
    path = DOCS / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())

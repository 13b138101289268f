"""The states of all roots: their kernels, and those whose root is gone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import JupyterMcpError
from ..ownership import is_held, states
from ..settings import Settings


def kernels_of_all(settings: Settings, kernels_of: Callable[[Settings], str]) -> Iterator[str]:
    """One text for each root that has kernels. `kernels_of` lists those of one."""
    found = False
    for folder, root in states(settings):
        if not is_held(folder) and not kernel_records(folder):
            continue
        found = True
        if not Path(root).is_dir():
            yield f"{root} (gone): {len(kernel_records(folder))} kernel record(s) in {folder}"
            continue
        one = dataclasses.replace(settings, root=Path(root))
        try:
            yield f"{root}\n{_indented(kernels_of(one))}"
        except JupyterMcpError as error:
            yield f"{root}\n{_indented(str(error))}"
    if not found:
        yield "No kernels, of any root."


def without_root(settings: Settings) -> list[tuple[Path, str]]:
    """State folders, with their root, whose root is not there any more."""
    return [(folder, root) for folder, root in states(settings) if not Path(root).is_dir() and not is_held(folder)]


def kernel_records(folder: Path) -> list[Path]:
    """What is written down of the kernels of a state folder, whether they still run or not."""
    return list((folder / "kernels").glob("*/record.json"))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())

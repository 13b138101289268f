"""Which Python a notebook runs on, where notebooks and environments are on one machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .checks import Finding


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment, as its files tell it: nothing in it has been run.

    `name` is what `Kernels.start` takes, `prefix` its folder, `python` its interpreter; `kind` is what made it: "venv",
    "uv", "poetry", "conda" or "pixi". `version` is "" where the files do not say. `problem` says why it cannot be used
    here, "" if it can.
    """

    name: str
    prefix: str
    python: str
    kind: str
    version: str
    has_ipykernel: bool
    problem: str = ""

    @property
    def adding_ipykernel(self) -> str:
        """The commands that give it ipykernel, first as its own tool does it."""
        prefix = shlex.quote(self.prefix)
        own = {"conda": f"conda install -p {prefix} ipykernel", "pixi": "pixi add ipykernel"}
        own["poetry"] = "poetry add --group dev ipykernel"
        ways = [own.get(self.kind, ""), f"{shlex.quote(self.python)} -m pip install ipykernel"]
        return ", or: ".join(filter(None, [*ways, f"uv pip install --python {prefix} ipykernel"]))


@dataclass(frozen=True, slots=True)
class Choice:
    """What a notebook's kernel is started with, and why.

    `name` is what `Kernels.start` takes; `where` is the interpreter, for people; `why` follows it: "the nearest
    environment with ipykernel".
    """

    name: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" if self.where else ""


@runtime_checkable
class Interpreters(Protocol):
    """What `Kernels` offer besides where notebooks and Python environments are on one machine. It reads files only.

    `environ` is the environment of whoever would start the kernel; None, the server's own.
    """

    async def choose(
        self, name: str, *, folder: str = "", language: str = "python", environ: Mapping[str, str] | None = None
    ) -> Choice:
        """What a notebook in `folder`, relative to the root, that names the kernelspec `name` runs on.

        Raises:
            NotFound: there is no such kernelspec, and the language is not Python; the message lists those there are.
        """

    async def environments(self, *, environ: Mapping[str, str] | None = None) -> Sequence[Environment]:
        """Every environment found: below and above the root, active ones, and those that conda knows; the near first.

        Those that cannot be used are among them, with their `problem`.
        """

    async def having(
        self, module: str, *, folder: str = "", environ: Mapping[str, str] | None = None
    ) -> Sequence[Environment]:
        """Those of them, and of `folder`, that could be used and hold a module; dotted names are looked up whole."""

    async def flaws(self) -> Mapping[str, Finding]:
        """What is wrong with kernelspecs, by their names, as far as can be told without starting them."""

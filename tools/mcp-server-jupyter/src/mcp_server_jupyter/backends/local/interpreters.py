"""Which Python a notebook runs on. Everything here reads files, in a thread; see `environments`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import anyio.to_thread

from ...errors import NotFound
from ...ports import Choice, Environment, Finding
from . import kernelspecs, places
from .environments import Found, Reader

MOST = 100
"""Environments listed."""
_TOLD = 3


class LocalInterpreters:
    """The Python environments of this machine. See `ports.Interpreters`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reader = Reader()

    async def choose(
        self, name: str, *, folder: str = "", language: str = "python", environ: Mapping[str, str] | None = None
    ) -> Choice:
        """See `ports.Interpreters.choose`."""
        return await anyio.to_thread.run_sync(self._choose, name, folder, language, _environ(environ))

    async def environments(self, *, environ: Mapping[str, str] | None = None) -> Sequence[Environment]:
        """See `ports.Interpreters.environments`."""
        return await anyio.to_thread.run_sync(lambda: [self._told(each) for each in self._all(_environ(environ))])

    async def having(
        self, module: str, *, folder: str = "", environ: Mapping[str, str] | None = None
    ) -> Sequence[Environment]:
        """See `ports.Interpreters.having`."""

        def look() -> list[Environment]:
            found = self._all(_environ(environ), folder)
            return [self._told(each) for each in found if not each.problem and self._reader.holds(each, module)]

        return await anyio.to_thread.run_sync(look)

    async def flaws(self) -> Mapping[str, Finding]:
        """See `ports.Interpreters.flaws`."""
        found = await anyio.to_thread.run_sync(lambda: list(kernelspecs.flaws()))
        return {name: Finding(False, f"Kernelspec {name}: {wrong}", advice) for name, wrong, advice in found}

    # ------------------------------------------------------------------ choosing

    def _choose(self, name: str, folder: str, language: str, environ: Mapping[str, str]) -> Choice:
        is_python = kernelspecs.is_python(name)
        if (recipe := kernelspecs.registered(name)) is not None:
            return Choice(name, f"kernelspec {name}", "registered under the name that the notebook gives")
        if not is_python and language != "python":
            names = ", ".join(spec.name for spec in kernelspecs.listing(self._root, self._every(environ)))
            raise NotFound(
                f"The notebook asks for the kernelspec {name!r}, which is not installed.", hint=f"There are: {names}."
            )
        unknown = "" if is_python else f"; a kernelspec {name} is not registered"
        passed: list[str] = []
        for found in self._near(folder, environ):
            if self._is_usable(found, passed):
                return self._take(found, f"the nearest environment with ipykernel{unknown}")
        for prefix, variable in places.active(environ):
            found_active = self._reader.read(prefix)
            if found_active is not None and self._is_usable(found_active, passed):
                return self._take(found_active, f"the active environment ({variable}){_said(passed)}{unknown}")
        recipe = kernelspecs.find("python3", self._root)
        python = recipe.command("")[0]
        if os.path.realpath(os.path.dirname(os.path.dirname(python))) != os.path.realpath(sys.prefix):
            return Choice("python3", python, f"the machine's kernelspec python3{_said(passed)}{unknown}")
        why = f"the server's own, as no environment with ipykernel was found{_said(passed)}{unknown}"
        return Choice("python3", f"Python {sys.version.split()[0]} at {python}", why)

    def _near(self, folder: str, environ: Mapping[str, str]) -> Iterator[Found]:
        for each in places.above(self._root, folder):
            yield from self._read(places.inside(each, environ))

    def _is_usable(self, found: Found, passed: list[str]) -> bool:
        if found.problem:
            passed.append(f"{self._spelled(found)}: {found.problem}")
        elif not self._reader.holds(found, "ipykernel"):
            passed.append(f"{self._spelled(found)} has no ipykernel ({self._told(found).adding_ipykernel})")
        else:
            return True
        return False

    def _take(self, found: Found, why: str) -> Choice:
        if os.path.realpath(found.prefix) == os.path.realpath(sys.prefix):
            return Choice("python3", f"Python {sys.version.split()[0]} at {self._spelled(found)}", why)
        told = self._told(found)
        return Choice(
            told.name, f"Python {found.version} at {self._spelled(found)}".replace("Python  ", "Python "), why
        )

    # ------------------------------------------------------------------ finding

    def _all(self, environ: Mapping[str, str], folder: str = "") -> list[Found]:
        met: dict[str, Found] = {}
        for found in self._everywhere(environ, folder):
            met.setdefault(os.path.realpath(found.prefix), found)
            if len(met) == MOST:
                break
        return list(met.values())

    def _everywhere(self, environ: Mapping[str, str], folder: str) -> Iterator[Found]:
        yield from self._near(folder, environ)
        yield from self._read((prefix, "") for prefix, _ in places.active(environ))
        for each in places.below(self._root):
            yield from self._read(places.inside(each, environ))
        for each in self._root.parents:
            yield from self._read((each / name, "") for name in places.NAMES)
        yield from self._read((prefix, "conda") for prefix in places.known_to_conda(environ))

    def _every(self, environ: Mapping[str, str]) -> list[Environment]:
        return [self._told(each) for each in self._all(environ)]

    def _read(self, found: Iterable[places.Place]) -> Iterator[Found]:
        for prefix, kind in found:
            environment = self._reader.read(prefix, kind)
            if environment is not None:
                yield environment

    def _told(self, found: Found) -> Environment:
        return self._reader.told(found, self._root)

    def _spelled(self, found: Found) -> str:
        prefix = found.prefix
        return prefix.relative_to(self._root).as_posix() if prefix.is_relative_to(self._root) else str(prefix)


def _environ(given: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if given is None else given


def _said(passed: Sequence[str]) -> str:
    more = f"; and {len(passed) - _TOLD} more" if len(passed) > _TOLD else ""
    return "".join(f"; {each}" for each in passed[:_TOLD]) + more

"""Clients that start, end, are killed and upgraded at random: one kernel a notebook, no variable lost, no orphan."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from http_app import Stdio, text_of
from mcp_server_jupyter.ownership import is_held
from place import Place
from support import eventually

NOTEBOOKS = ("a.ipynb", "b.ipynb")


class Life:
    """Up to four clients of one root, what they were told, and what must therefore be so."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)
        self.clients: list[tuple[Stdio, ExitStack]] = []
        self.version = 0
        self.acknowledged: dict[str, set[int]] = {name: set() for name in NOTEBOOKS}
        self.kernels: dict[str, str] = {}
        self.number = 0
        self.unknown = 0

    def step(self) -> str:
        actions = ["call"] * 6 + ["start"] * 3 + ["close", "kill client", "kill server", "kill server", "end server"]
        actions += ["upgrade"] if self.version < 12 else []
        action = self.random.choice(actions) if self.clients else "start"
        getattr(self, f"_{action.replace(' ', '_')}")()
        return action

    def check(self) -> None:
        """Whoever asks finds every variable that was acknowledged, in the kernel that there was from the beginning."""
        if not self.clients:
            self._start()
        numbers = "sorted(int(n[1:]) for n in dir() if n[:1] == 'v' and n[1:].isdigit())"
        for name in NOTEBOOKS:
            text = self._ask(f"import os; print('has', {numbers}, os.getpid())", name)
            found = re.search(r"has \[([\d, ]*)\] (\d+)", text)
            assert found, text
            assert self.acknowledged[name] <= {int(n) for n in found[1].split(", ") if n}
            assert self.kernels.setdefault(name, found[2]) == found[2], "another kernel"

    def _ask(self, code: str, name: str) -> str:
        """Ask until the outcome is known: a server may have been killed just now."""
        while True:
            text = self._run(code, name)
            if "outcome of this call is unknown" not in text:
                return text
            self.unknown += 1

    def _run(self, code: str, name: str) -> str:
        """The answer; a client that saw five servers die within half a minute is asked again later."""
        client, _ = self.random.choice(self.clients)
        call = {"name": "execute_code", "arguments": {"code": code, "notebook_path": name}}

        def answered() -> dict[str, Any] | None:
            answer = client.ask("tools/call", call)
            given_up = "error" in answer and "is not started again for a while" in answer["error"]["message"]
            return None if given_up else answer

        return text_of(eventually(answered, 60, "another start"))

    def _start(self) -> None:
        if len(self.clients) == 4:
            self._close()
        stack = ExitStack()
        before = f"import mcp_server_jupyter; mcp_server_jupyter.__version__ = '1.{self.version}'"
        client = stack.enter_context(self.place.client("--max-chars=100000", before=before))
        assert "result" in client.initialize()
        self.clients.append((client, stack))

    def _upgrade(self) -> None:
        self.version += 1
        self._start()

    def _close(self) -> None:
        _, stack = self.clients.pop(self.random.randrange(len(self.clients)))
        stack.close()

    def _kill_client(self) -> None:
        client, stack = self.clients.pop(self.random.randrange(len(self.clients)))
        client.process.kill()
        stack.close()

    def _kill_server(self) -> None:
        self._signal(signal.SIGKILL)

    def _end_server(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if is_held(self.place.settings.root_state) and self.place.version:
            with suppress(ProcessLookupError, AssertionError):
                os.kill(self.place.record.pid, number)

    def _call(self) -> None:
        name = self.random.choice(NOTEBOOKS)
        self.number += 1
        text = self._run(f"v{self.number} = {self.number}", name)
        if "outcome of this call is unknown" in text:
            self.unknown += 1
        else:
            assert text.startswith("ok"), text
            self.acknowledged[name].add(self.number)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.end()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_variable_is_lost_whoever_starts_ends_or_is_killed(place: Place, seed: int) -> None:
    _live(place, seed, 100)


def test_a_short_life_loses_nothing(place: Place) -> None:
    _live(place, 7, 12)


def _live(place: Place, seed: int, steps: int) -> None:
    life = Life(place, seed)
    done = []
    try:
        life.check()
        for _ in range(steps):
            done.append(life.step())
            if done[-1] in ("kill server", "end server", "upgrade"):
                life.check()
        life.check()
    except BaseException as error:
        error.add_note(f"after {done}")
        raise
    finally:
        for _, stack in life.clients:
            stack.close()

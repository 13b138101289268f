"""What a person lets agents do: paused or not, and whether what they run is asked about. Kept over restarts.

This keeps agents within what their person wants as far as they use this server; it is no sandbox.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from ..errors import NotAllowed, NotFound
from ..events import Events
from ..journal import AgentRule, Journal, Run
from ..tasks import Tasks
from .execution import Execution
from .queue import Executions

APPROVAL_SECONDS = 30 * 60.0
TURN_SECONDS = 120.0
"""A pause of an agent after which what was decided for its turn holds no longer."""
_CODE_CHARACTERS = 4_000
ALL = ""
"""The notebook of the rule for all notebooks."""

Decision = Literal["approve", "deny"]
Scope = Literal["once", "turn", "notebook"]


@dataclass(eq=False)
class Approval:
    """Somebody is asked whether an agent's cells may run: all those of one call."""

    executions: Sequence[Execution]
    status: Literal["waiting", "approved", "denied", "expired", "withdrawn"] = "waiting"
    asked_at: float = field(default_factory=time.time)
    decided: anyio.Event = field(default_factory=anyio.Event)

    @property
    def first(self) -> Execution:
        return self.executions[0]

    @property
    def notebook(self) -> str | None:
        return self.first.notebook or self.first.home

    def data(self) -> dict[str, Any]:
        """As JSON has it (docs/editor-protocol.md)."""
        return {
            "execution_id": self.first.id,
            "notebook_path": self.notebook,
            "cell_id": self.first.cell_id,
            "author": self.first.author,
            "code": self.first.code[:_CODE_CHARACTERS],
            "cells": len(self.executions),
            "asked_at": self.asked_at,
            "expires_at": self.asked_at + APPROVAL_SECONDS,
            "status": self.status,
        }


class Agents:
    """The rules of one server, and who waits for an approval."""

    def __init__(self, journal: Journal, events: Events, tasks: Tasks, executions: Executions) -> None:
        self._journal = journal
        self._events = events
        self._tasks = tasks
        self._executions = executions
        self._rules: dict[str, AgentRule] = journal.agent_rules()
        self._waiting: dict[str, Approval] = {}
        # What was decided for the turns of agents: by author and notebook, until when.
        self._turns: dict[tuple[str, str | None], tuple[Decision, float]] = {}
        executions.refuse(self._refusal)

    # ------------------------------------------------------------------ rules

    def data(self) -> dict[str, Any]:
        """As JSON has it (docs/editor-protocol.md)."""
        own = {path: rule for path, rule in self._rules.items() if path != ALL}
        notebooks = {path: {"paused": rule.paused, "run": rule.run} for path, rule in own.items()}
        general = self._rule(ALL)
        return {"paused": general.paused, "run": general.run or "allow", "notebooks": notebooks}

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path: its rule goes with it.

        Raises:
            Unavailable: that cannot be written down; nothing has changed.
        """
        rule = self._rules.get(notebook)
        if rule is not None:
            self._journal.set_agent_rule(to, rule)
            self._rules[to] = rule
            self._journal.set_agent_rule(notebook, AgentRule(False, None))
            del self._rules[notebook]
            self._events.publish("agents.changed", **self.data())
        for approval in dict.fromkeys(self._waiting.values()):
            if approval.notebook == to:
                self._tell(approval)

    def _rule(self, notebook: str | None) -> AgentRule:
        return self._rules.get(notebook or ALL, AgentRule(False, None))

    def is_paused(self, notebook: str | None) -> bool:
        return self._rule(ALL).paused or self._rule(notebook).paused

    def run(self, notebook: str | None) -> Run:
        """What becomes of what an agent runs in a notebook."""
        return self._rule(notebook).run or self._rule(ALL).run or "allow"

    async def change(self, notebook: str | None, changed: Mapping[str, Any]) -> None:
        """Set `paused` and `run`, as far as they are given, for a notebook or for all (None).

        Raises:
            Unavailable: that cannot be written down; nothing has changed.
        """
        before = self._rule(notebook)
        rule = AgentRule(changed.get("paused", before.paused), changed.get("run", before.run))
        self._journal.set_agent_rule(notebook or ALL, rule)
        self._rules[notebook or ALL] = rule
        self._events.publish("agents.changed", **self.data())
        for execution in self._executions.active():
            if why := self._refusal(execution):
                await self._executions.take_back(execution, why)

    def _refusal(self, execution: Execution) -> str:
        paused = execution.by_agent and self.is_paused(execution.notebook or execution.home)
        return "Not run: agents are paused." if paused else ""

    def require(self, notebook: str | None, *, runs: bool) -> None:
        """Refuse what agents may not do now.

        Raises:
            NotAllowed
        """
        where = f" in {notebook}" if notebook else ""
        if self.is_paused(notebook):
            raise NotAllowed(
                f"Agents are paused{where}: a person stopped their edits and runs.",
                hint="Reading goes on. Tell the person what you want to do, and wait until they let agents go on.",
            )
        if runs and self.run(notebook) == "deny":
            raise NotAllowed(
                f"Agents may not run code{where}.", hint="Edit cells and leave running them to the person, or ask them."
            )

    # ------------------------------------------------------------------ approvals

    def waiting(self) -> Sequence[Approval]:
        """Those that nobody has decided yet, in the order they came."""
        return tuple(dict.fromkeys(self._waiting.values()))

    def must_ask(self, author: str, notebook: str | None) -> bool:
        """Whether what an agent runs now waits for an approval.

        Raises:
            NotAllowed: it was denied for this turn.
        """
        if self.run(notebook) != "ask":
            return False
        decision, until = self._turns.get((author, notebook), ("", 0.0))
        if time.monotonic() > until:
            return True
        self._turns[author, notebook] = decision or "deny", time.monotonic() + TURN_SECONDS  # type: ignore[assignment]
        if decision == "deny":
            raise NotAllowed("A person has denied what you run in this turn.", hint="Ask them what they want instead.")
        return False

    def ask(self, executions: Sequence[Execution], *, is_anybody_here: bool) -> Approval:
        """Ask whether these may run, which were held back; denied after half an hour."""
        approval = Approval(executions)
        where = "in the editor" if is_anybody_here else "in an editor, of which none is open,"
        for execution in executions:
            self._waiting[execution.id] = approval
            execution.waits_for = (
                f"A person has to approve this run {where} or by `POST /api/approvals/{execution.id}` "
                '{"decision": "approve"}; after 30 minutes it is denied.'
            )
        self._tell(approval)
        self._tasks.start_soon(self._follow, approval)
        return approval

    async def decide(self, execution_id: str, decision: Decision, scope: Scope) -> Approval:
        """Approve or deny what waits, for once, for the agent's turn, or for the notebook from now on.

        Raises:
            NotFound: it does not wait.
            Unavailable: the rule cannot be written down; nothing has changed.
        """
        approval = self._waiting.get(execution_id)
        if approval is None or approval.status != "waiting":
            raise NotFound(f"No execution {execution_id!r} waits for an approval.", hint="It may have been decided.")
        if scope == "notebook":
            await self.change(approval.notebook, {"run": "allow" if decision == "approve" else "deny"})
        elif scope == "turn":
            key = approval.first.author, approval.notebook
            self._turns[key] = decision, time.monotonic() + TURN_SECONDS
        await self._end(approval, "approved" if decision == "approve" else "denied")
        return approval

    async def _follow(self, approval: Approval) -> None:
        with anyio.move_on_after(APPROVAL_SECONDS):
            while approval.status == "waiting":
                if all(execution.finished for execution in approval.executions):
                    await self._end(approval, "withdrawn")
                    return
                version = approval.first.version
                with anyio.move_on_after(1.0):
                    await approval.first.news(version)
            return
        await self._end(approval, "expired")

    async def _end(self, approval: Approval, status: Literal["approved", "denied", "expired", "withdrawn"]) -> None:
        if approval.status != "waiting":
            return
        approval.status = status
        for execution in approval.executions:
            self._waiting.pop(execution.id, None)
            execution.waits_for = ""
        self._tell(approval)
        for execution in approval.executions:
            if status == "approved":
                self._executions.let_run(execution)
            else:
                why = "A person denied it." if status == "denied" else "Nobody approved it in time."
                await self._executions.take_back(execution, f"Not run: {why}")

    def _tell(self, approval: Approval) -> None:
        self._events.publish("approval.changed", **approval.data())

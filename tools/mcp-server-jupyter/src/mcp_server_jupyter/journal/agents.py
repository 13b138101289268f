"""What a person lets agents do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .tables import Tables

Run = Literal["allow", "ask", "deny"]


@dataclass(frozen=True, slots=True)
class AgentRule:
    """The rule for one notebook, or for all. `run` is None for a notebook where it is as for all."""

    paused: bool
    run: Run | None


class AgentRules(Tables):
    """The journal's rules for agents."""

    def set_agent_rule(self, notebook: str, rule: AgentRule) -> None:
        """Set the rule of a notebook; "" is all of them."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO agents (notebook, paused, run) VALUES (?, ?, ?)",
                (notebook, rule.paused, rule.run),
            )

    def agent_rules(self) -> dict[str, AgentRule]:
        """The rules by notebook."""
        rows = self._query("SELECT notebook, paused, run FROM agents")
        return {notebook: AgentRule(bool(paused), run) for notebook, paused, run in rows}

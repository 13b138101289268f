"""What `doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `doctor` looked at. `advice` says what to do when it is not fine.

    A backend's own checks are an entry point of the group `mcp_server_jupyter.checks`: a function
    `(settings) -> AsyncIterator[Finding]` that `doctor NAME` runs.
    """

    fine: bool
    text: str
    advice: str = ""

    def __str__(self) -> str:
        mark = "ok  " if self.fine else "FAIL"
        return f"{mark}  {self.text}" + (f"\n      {self.advice}" if self.advice else "")

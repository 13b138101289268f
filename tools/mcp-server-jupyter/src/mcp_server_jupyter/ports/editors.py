"""Notebooks that are open in editors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    pass

EditorListener = Callable[[str, dict[str, Any], str | None], None]
"""Called with an event's kind, its data and the one window it is for, None for all; neither waits nor raises."""


class Editors(Protocol):
    """The windows' side of `Contents` that lie under editors' buffers. docs/editor-protocol.md says what they mean.

    A window is known by its id. What it has open, and the first of those who have it open owns, is the notebook.
    """

    def listen(self, listener: EditorListener) -> Callable[[], None]:
        """Call `listener` with what windows are to be told ("edit", "lease"); returns what ends it."""

    def leases(self) -> Mapping[str, str]:
        """Who owns what: windows by path."""

    def recovering(self, leases: Mapping[str, str]) -> AbstractAsyncContextManager[None]:
        """Give notebooks back to the windows that owned them when the server before this one ended.

        What is put into these notebooks meanwhile is owed to the windows, and told each at its next `open`. From the
        end on they are waited for as windows are whose stream was lost.
        """

    def hand_over(self) -> None:
        """The next server waits for the windows that are here now: what they have not saved is not written any more,
        so that no newer file is in the way of their own saving."""

    def is_shared(self, path: str) -> bool:
        """False if its owner runs it on a kernel that is not ours."""

    @property
    def is_anybody_here(self) -> bool:
        """Whether any window has a stream."""

    def joined(self, window: str) -> None:
        """A window has a stream."""

    def left(self, window: str) -> None:
        """A window's stream was lost: what it owns waits for it."""

    async def open(
        self, window: str, path: str, *, shared: bool = True, notebook: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A window has a notebook open, with what it has of it where that is not the file's. Answers what to do.

        Raises:
            NotFound, OutsideRoot, InvalidNotebook, InvalidRequest
        """

    async def change(self, window: str, path: str, *, base: int, version: int, ops: Sequence[Mapping[str, Any]]) -> int:
        """The person has changed a notebook; the version the server knows then.

        Raises:
            Stale: that does not fit what the server knows: the window opens the notebook again.
            InvalidRequest: that is no change.
        """

    async def saved(self, window: str, path: str, version: int) -> int:
        """A window has saved a notebook."""

    async def renamed(self, window: str, path: str, to: str) -> tuple[str, str]:
        """A window has given a notebook another path; both paths in their canonical spelling."""

    async def close(self, window: str, path: str) -> None:
        """A window has closed a notebook: it is another window's, or the file's, which gets what it lacks."""

    def reply(self, window: str, request_id: str, *, is_applied: bool, version: int) -> int:
        """What became of an edit that a window was asked for.

        Raises:
            Stale: nobody waits for it any more.
        """

"""The windows' side of what is open in editors: who owns what, what they say, and what they are asked."""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from ... import notebooks
from ...errors import Conflict, InvalidNotebook, InvalidRequest, JupyterMcpError, Stale, Unavailable
from .document import Document, Outcome, Request, clashes, with_outputs
from .ops import Op, edit_ops

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from .contents import LiveContents

logger = logging.getLogger(__name__)

REPLY_SECONDS = 5.0
DEADLINE_SECONDS = 4.0
"""A window applies nothing that it meets later than this, so that a refusal after `REPLY_SECONDS` holds."""
AWAY_SECONDS = 10.0
_MOST_FORMER = 50

Tell = Callable[[str, dict[str, Any], str | None], None]


class Windows:
    """See `ports.Editors`."""

    def __init__(self, contents: LiveContents) -> None:
        self._contents = contents
        self._joined: set[str] = set()
        self._listeners: list[Tell] = []
        self._numbers = itertools.count(1)
        self._former: OrderedDict[str, Document] = OrderedDict()

    def listen(self, listener: Tell) -> Callable[[], None]:
        """See `ports.Editors.listen`."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def leases(self) -> Mapping[str, str]:
        """See `ports.Editors.leases`."""
        return {path: document.owner for path, document in self._contents.documents.items()}

    def is_shared(self, path: str) -> bool:
        """See `ports.Editors.is_shared`."""
        document = self._contents.documents.get(path)
        return document is None or document.is_shared

    @property
    def is_anybody_here(self) -> bool:
        """See `ports.Editors.is_anybody_here`."""
        return bool(self._joined)

    # ------------------------------------------------------------------ from one server to the next

    @asynccontextmanager
    async def recovering(self, leases: Mapping[str, str]) -> AsyncIterator[None]:
        """See `ports.Editors.recovering`."""
        documents = [await self._recover(path, window) for path, window in leases.items()]
        try:
            yield
        finally:
            for document in documents:
                if document is not None:
                    document.is_recovered = False
                    self._contents.start_soon(self._await_window, document, document.owner)

    async def _recover(self, path: str, window: str) -> Document | None:
        try:
            name = self._contents.resolve(path)
            file = await self._contents.below.read(name)
        except JupyterMcpError as error:
            logger.warning("%s was open in an editor and cannot be read: %s", path, error)
            self._tell_lease(path, None)
            return None
        document = Document(name, window, file, file, file, is_live=False, is_recovered=True)
        self._contents.documents[name] = document
        return document

    def hand_over(self) -> None:
        """See `ports.Editors.hand_over`."""
        self._contents.is_handed_over = True

    # ------------------------------------------------------------------ coming and going

    def joined(self, window: str) -> None:
        """See `ports.Editors.joined`."""
        self._joined.add(window)

    def left(self, window: str) -> None:
        """See `ports.Editors.left`."""
        self._joined.discard(window)
        for document in list(self._contents.documents.values()):
            if document.owner == window:
                document.is_live = False
                self._contents.start_soon(self._await_window, document, window)

    async def _await_window(self, document: Document, window: str) -> None:
        """Give the window time to come back; then the next one inherits, or the file gets what it lacks."""
        with anyio.move_on_after(AWAY_SECONDS):
            while not document.is_live and document.owner == window and self._is_open(document):
                await document.news.wait()
            return
        if not document.is_live and document.owner == window and self._is_open(document):
            await self._pass_on(document)

    async def _pass_on(self, document: Document) -> None:
        """The owner is gone: the first window that is still here is asked what it has; else nobody owns it."""
        document.is_live = False
        self._settle(document, "gone")
        while document.observers:
            heir = next(iter(document.observers))
            is_shared = document.observers.pop(heir)
            if heir in self._joined:
                document.owner, document.is_shared = heir, is_shared
                self._tell_lease(document.path, heir)
                self._contents.start_soon(self._await_window, document, heir)
                return
        await self._contents.write_owed(document)

    def forget(self, document: Document) -> None:
        """Nobody owns it any more: the file is the notebook again."""
        if not self._is_open(document):
            return
        del self._contents.documents[document.path]
        self._former[document.path] = document
        self._former.move_to_end(document.path)
        while len(self._former) > _MOST_FORMER:
            self._former.popitem(last=False)
        self._settle(document, "gone")
        self._tell_lease(document.path, None)
        document.tell()
        self._contents.tell(document.path)

    def _is_open(self, document: Document) -> bool:
        return self._contents.documents.get(document.path) is document

    # ------------------------------------------------------------------ what windows say

    async def open(
        self, window: str, path: str, *, shared: bool = True, notebook: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """See `ports.Editors.open`."""
        name = self._contents.resolve(path)
        document = self._contents.documents.get(name)
        if document is None:
            async with self._contents.lock(name):
                document = self._contents.documents.get(name)
                if document is None:
                    document, ops, lost = await self._take(window, name, notebook)
                    document.is_shared = shared
                    return self._opened(document, ops, lost)
        if document.owner != window:
            document.observers[window] = shared
            return self._opened(document, [], [])
        document.is_shared = shared
        return self._opened(document, *await self._take_again(window, document, notebook))

    async def _take(
        self, window: str, name: str, given: Mapping[str, Any] | None
    ) -> tuple[Document, Sequence[Op], Sequence[Any]]:
        """A window opens what nobody has open; the caller holds the notebook's lock."""
        below = self._contents.below
        await below.flush(name)
        file = await below.read(name)
        theirs = file if given is None else _notebook(given, file)
        former = self._former.pop(name, None)
        wanted = theirs
        lost: Sequence[Any] = ()
        if former is not None and given is not None:
            # It had this open before: what the file got since is not in the window.
            wanted = notebooks.merge(former.saved, file, theirs, on_conflict=_ignore)
            lost = clashes(former.saved, file, theirs)
            wanted = with_outputs(wanted, file, former.ran)
        document = Document(name, window, wanted, file, file, speaker=window)
        self._contents.documents[name] = document
        self._tell_lease(name, window)
        return document, edit_ops(theirs, wanted), lost

    async def _take_again(
        self, window: str, document: Document, given: Mapping[str, Any] | None
    ) -> tuple[Sequence[Op], Sequence[Any]]:
        """The owner says what it has: that is the notebook, but for outputs that it does not have yet."""
        file = await self._contents.below.read(document.path)
        theirs = file if given is None else _notebook(given, document.buffer)
        document.file_is(file)
        wanted = theirs
        lost: Sequence[Any] = ()
        if document.speaker != window or given is None:
            # What it has is a file's, or an heir's: it has not seen what the window before it has acknowledged.
            wanted = notebooks.merge(document.saved, document.owed, theirs, on_conflict=_ignore)
            lost = clashes(document.saved, document.owed, theirs)
        for before, after in document.given_up:
            wanted = notebooks.merge(after, before, wanted, on_conflict=_ignore)
        wanted = with_outputs(wanted, document.buffer, document.ran)
        document.given_up.clear()
        document.speaker = window
        document.buffer = wanted
        document.version += 1
        document.is_live = True
        self._settle(document, "opened")
        document.tell()
        self._contents.tell(document.path)
        return edit_ops(theirs, wanted), lost

    def _opened(self, document: Document, ops: Sequence[Op], lost: Sequence[Any]) -> dict[str, Any]:
        told = {"owner": document.owner, "version": document.version, "cells": document.cells(), "ops": list(ops)}
        return {**told, "clashes": list(lost)}

    async def change(self, window: str, path: str, *, base: int, version: int, ops: Sequence[Op]) -> int:
        """See `ports.Editors.change`."""
        document = self._own(window, path)
        if document is None:
            return version
        if not document.is_live or base != document.version or version <= base:
            raise Stale(f"The server knows version {document.version} of {path!r}, not {base}.")
        document.typed(ops)
        document.version = version
        self._contents.tell(document.path)
        return version

    async def saved(self, window: str, path: str, version: int) -> int:
        """See `ports.Editors.saved`."""
        document = self._own(window, path)
        if document is None:
            return version
        document.file_is(await self._contents.below.read(document.path))
        return document.version

    async def renamed(self, window: str, path: str, to: str) -> tuple[str, str]:
        """See `ports.Editors.renamed`."""
        documents = self._contents.documents
        name, other = self._contents.resolve(path), self._contents.resolve(to)
        document = documents.get(name)
        if document is not None and document.owner == window and name != other:
            del documents[name]
            there = documents.get(other)
            if there is None:
                document.path = other
                documents[other] = document
            else:
                # The window has said under the new name what it has, before it said that this is the same notebook.
                there.observers |= {each: shared for each, shared in document.observers.items() if each != there.owner}
                self._settle(document, "gone")
                document.tell()
            self._tell_lease(name, None)
            self._tell_lease(other, documents[other].owner)
            self._contents.tell(name)
            self._contents.tell(other)
        return name, other

    async def close(self, window: str, path: str) -> None:
        """See `ports.Editors.close`."""
        name = self._contents.resolve(path)
        document = self._contents.documents.get(name)
        if document is None:
            return
        if document.owner == window:
            await self._pass_on(document)
        else:
            document.observers.pop(window, None)

    def reply(self, window: str, request_id: str, *, is_applied: bool, version: int) -> int:
        """See `ports.Editors.reply`."""
        for document in self._contents.documents.values():
            request = document.request
            if request is None or request.id != request_id or document.owner != window:
                continue
            if is_applied:
                if version != document.version + 1:
                    raise Stale(f"Version {version} is not the one after {document.version}.")
                document.acknowledged(request.ops)
                document.version = version
            self._settle(document, "applied" if is_applied else "refused")
            return document.version
        raise Stale(f"Nobody waits for {request_id!r} any more.")

    def _own(self, window: str, path: str) -> Document | None:
        """The document that a window owns; None if it observes it."""
        document = self._contents.documents.get(self._contents.resolve(path))
        if document is None:
            raise Stale(f"This window does not have {path!r} open.")
        return document if document.owner == window else None

    # ------------------------------------------------------------------ what they are asked

    async def request(self, document: Document, ops: Sequence[Op], author: str) -> Outcome:
        """Ask the owner for an edit, and wait for what becomes of it.

        Raises:
            Unavailable: it does not say.
        """
        request = Request(f"r{next(self._numbers)}", ops)
        document.request = request
        data = {"request": request.id, "path": document.path, "author": author, "version": document.version}
        self._tell("edit", {**data, "deadline": time.time() + DEADLINE_SECONDS, "ops": list(ops)}, document.owner)
        try:
            with anyio.move_on_after(REPLY_SECONDS):
                await request.done.wait()
                return request.outcome
        finally:
            if document.request is request:
                document.request = None
        raise Unavailable(
            f"The editor that has {document.path!r} open did not answer within {REPLY_SECONDS:.0f} s: nothing changed.",
            hint="Look at its window, or close the notebook there, then try again.",
        )

    def _settle(self, document: Document, outcome: Outcome) -> None:
        if document.request is not None:
            document.request.settle(outcome)

    def _tell_lease(self, path: str, owner: str | None) -> None:
        self._tell("lease", {"path": path, "owner": owner}, None)

    def _tell(self, kind: str, data: dict[str, Any], window: str | None) -> None:
        for listener in list(self._listeners):
            listener(kind, data, window)


def _ignore(conflict: Conflict) -> None:
    """A clash with what a window has: that stays."""


def _notebook(given: Mapping[str, Any], known: NotebookNode) -> NotebookNode:
    """What a window has, checked; its cells without ids get those of the cells that they continue.

    Raises:
        InvalidRequest: that is no notebook.
    """
    notebook = notebooks.node(given)
    try:
        notebooks.check_root(notebook)
    except InvalidNotebook as error:
        raise InvalidRequest(f"That is no notebook: {error.message}", hint=error.hint) from error
    cells = [notebooks.join_cell(cell) for cell in notebook.cells]
    if not all(notebooks.valid_id(cell.get("id")) for cell in cells):
        taken = {cell.get("id") for cell in cells}
        for index, at in enumerate(notebooks.align(known.cells, cells)):
            if not notebooks.valid_id(cells[index].get("id")):
                same = None if at is None else known.cells[at]["id"]
                cells[index] = notebooks.shallow(
                    cells[index], id=notebooks.new_id() if same is None or same in taken else same
                )
                taken.add(cells[index]["id"])
    notebook["cells"] = cells
    return notebooks.settle(notebook, ())

"""A notebook file as text and as cells at once, so that an edit changes the bytes of the edited cells only."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ... import notebooks
from ...errors import InvalidNotebook
from .json_scan import Item, plain_scanner, scanner, skip_space, walk
from .json_text import Path, Style, Writer, detect_style, same

if TYPE_CHECKING:
    from nbformat import NotebookNode

BOM = "\ufeff"
_CONVERT = "Convert it first: jupyter nbconvert --to notebook --inplace FILE"


@dataclass(frozen=True, slots=True)
class Piece:
    """A cell, its exact bytes, and the bytes before it (after the list's bracket or the cell before)."""

    cell: NotebookNode
    raw: bytes
    lead: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A notebook and its file's bytes: `head`, which ends with the cells' bracket, the pieces, `close` and `tail`.

    `refusal` says why it can be read, but not edited; None when it can. `has_made_up_ids` tells of ids that are not in
    the file, `are_ids_remembered` that some of those would be others if the file were read anew.
    """

    notebook: NotebookNode
    head: bytes
    pieces: tuple[Piece, ...]
    close: bytes
    tail: bytes
    style: Style = field(default_factory=Style)
    refusal: str | None = None
    has_made_up_ids: bool = False
    are_ids_remembered: bool = False

    def parts(self) -> list[bytes]:
        """The whole file, in pieces."""
        parts = [self.head]
        for piece in self.pieces:
            parts += (piece.lead, piece.raw)
        return [*parts, self.close, self.tail]

    def data(self) -> bytes:
        """The whole file."""
        return b"".join(self.parts())

    def holds(self, data: bytes) -> bool:
        """Whether that is the whole file."""
        at = 0
        for part in self.parts():
            if not data.startswith(part, at):
                return False
            at += len(part)
        return at == len(data)

    def without_bytes(self) -> Document:
        """Only what finds the made-up ids again."""
        kept = ("cell_type", "source", "id")
        cells = [notebooks.shallow({key: cell[key] for key in kept}) for cell in self.notebook.cells]
        return Document(notebooks.shallow(self.notebook, cells=cells), b"", (), b"", b"")


# --------------------------------------------------------------------------- reading


def parse(data: bytes, previous: Document | None = None) -> Document:
    """Read a notebook file.

    Args:
        previous: the same file as it was before; cells with the same bytes stay the same objects, and ids made up
            for it are found again.

    Raises:
        InvalidNotebook: not UTF-8, not JSON, not a notebook, or of an unknown major format.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidNotebook(
            f"The file is not UTF-8 (byte {error.start}).", hint="Save it as UTF-8, or restore it from a copy."
        ) from error
    try:
        return _parse(data, text, previous)
    except RecursionError as error:
        raise InvalidNotebook("The file's JSON is nested too deeply.", hint="Is it a notebook?") from error
    except ValueError as error:
        raise InvalidNotebook(
            f"The file is not well-formed JSON: {error}.", hint="Repair it, or restore it from a checkpoint or git."
        ) from error


def _parse(data: bytes, text: str, previous: Document | None) -> Document:
    node_type = notebooks.node_type()
    start = skip_space(text, 1 if text.startswith(BOM) else 0)
    if text[start : start + 1] != "{":
        raise InvalidNotebook("The file is not a notebook: it holds no JSON object.", hint="Name another file.")
    scan_node = scanner(text, node_type)
    cells: list[Item] = []

    def scan(text: str, at: int, key: str | None) -> tuple[Any, int]:
        if key != "cells" or text[at : at + 1] != "[":
            return scan_node(text, at)
        cells[:], end = walk(text, at, lambda text, at, _: scan_node(text, at))
        return [item.value for item in cells], end

    items, end = walk(text, start, scan)
    if skip_space(text, end) != len(text):
        raise ValueError(f"more text after the notebook's end (char {end})")
    root = node_type({str(item.key): item.value for item in items})
    if len(root) != len(items):
        raise InvalidNotebook("The file names a part of the notebook twice.", hint="Repair it by hand.")
    if (type(root.get("nbformat")) is int and root["nbformat"] in (1, 2, 3)) or "worksheets" in root:
        _check_levels(data, root)
        notebook, remembered = _old_format(text, root, previous), previous is not None
        return Document(notebook, data, (), b"", b"", Style(), _refuse_old(root), True, remembered)
    notebooks.check_root(root)
    return _document(data, text, root, items, cells, previous)


def _document(
    data: bytes, text: str, root: NotebookNode, items: list[Item], cells: list[Item], previous: Document | None
) -> Document:
    at = next(item.value_start for item in items if item.key == "cells") + 1
    style = detect_style(text, skip_space(text, 1 if text.startswith(BOM) else 0), items)
    cut = data.__getitem__ if text.isascii() else lambda span: text[span].encode("utf-8")
    head = cut(slice(0, at))
    raws = [cut(slice(item.start, item.end)) for item in cells]
    for item, raw in zip(cells, raws, strict=True):
        _check_levels(raw, item.value)
    ends = [at, *(item.end for item in cells)]
    leads = [cut(slice(end, item.start)) for end, item in zip(ends, cells, strict=False)]
    values = [item.value for item in cells]
    found = _identify(raws, values, previous)
    has_made_up = any(cell["id"] != value.get("id") for cell, value in zip(found, values, strict=True))
    pieces = [Piece(*parts) for parts in zip(found, raws, leads, strict=True)]
    at, tail_start = ends[-1], skip_space(text, ends[-1])
    root["cells"] = [piece.cell for piece in pieces]
    if previous is not None and same(previous.notebook.metadata, root["metadata"]):
        root["metadata"] = previous.notebook.metadata
    close, tail = cut(slice(at, tail_start)), cut(slice(tail_start, len(text)))
    _check_levels(head + tail, {key: value for key, value in root.items() if key != "cells"})
    remembered = has_made_up and previous is not None
    return Document(root, head, tuple(pieces), close, tail, style, None, has_made_up, remembered)


def _check_levels(raw: bytes, value: Any) -> None:
    """Few values have brackets enough to be too deep: the others need not be walked."""
    if raw.count(b"[") + raw.count(b"{") > notebooks.MAX_LEVELS:
        notebooks.check_levels(value)


def _identify(
    raws: Sequence[bytes], values: Sequence[Mapping[str, Any]], previous: Document | None
) -> list[NotebookNode]:
    """Every cell with an id of its own; cells with the bytes they had before are the same objects.

    A cell keeps the id it had; a new one has the file's where that is valid and unique, else one made from what is
    in it: the same file gives the same ids.
    """
    known: dict[bytes, list[NotebookNode]] = {}
    for piece in previous.pieces if previous else ():
        known.setdefault(piece.raw, []).append(piece.cell)
    cells = [
        known[raw][0] if raw in known else notebooks.join_cell(value) for raw, value in zip(raws, values, strict=True)
    ]
    times = Counter(raws)
    kept = [known[raw][0]["id"] if times[raw] == len(known.get(raw, ())) == 1 else None for raw in raws]
    taken = {cell_id for cell_id in kept if cell_id is not None}
    ids = [_own_id(value, taken) if cell_id is None else cell_id for cell_id, value in zip(kept, values, strict=True)]
    if None in ids:
        _remember_ids(ids, cells, taken, previous)
    return [
        next((before for before in (known.get(raw, ()) if known else ()) if before["id"] == cell_id), None)
        or (cell if cell.get("id") == cell_id else notebooks.shallow(cell, id=cell_id))
        for raw, cell, cell_id in zip(raws, cells, ids, strict=True)
    ]


def _own_id(value: Mapping[str, Any], taken: set[str]) -> str | None:
    own = value.get("id")
    if not notebooks.valid_id(own) or own in taken:
        return None
    taken.add(str(own))
    return str(own)


def _remember_ids(
    ids: list[str | None], cells: Sequence[NotebookNode], taken: set[str], previous: Document | None
) -> None:
    old = [cell for cell in previous.notebook.cells if cell["id"] not in taken] if previous else []
    missing = [at for at, cell_id in enumerate(ids) if cell_id is None]
    origin = notebooks.align(old, [cells[at] for at in missing])
    for at, was in zip(missing, origin, strict=True):
        ids[at] = _derived_id(cells[at], taken) if was is None else old[was]["id"]
        taken.add(str(ids[at]))


def _derived_id(cell: Mapping[str, Any], taken: set[str]) -> str:
    seed = hashlib.sha256(f"{cell['cell_type']}\0{cell['source']}".encode("utf-8", "surrogatepass"))
    while (made := seed.hexdigest()[:8]) in taken:
        seed.update(b"+")
    return made


def _refuse_old(root: Mapping[str, Any]) -> str:
    return f"The notebook is in the old format {root.get('nbformat', 3)}, which is read but not edited."


def _old_format(text: str, root: Mapping[str, Any], previous: Document | None) -> NotebookNode:
    """The notebook as format 4 has it; `orig_nbformat` beside its cells, where format 4 has none, says what it was."""
    import nbformat  # noqa: PLC0415

    reads: Callable[..., NotebookNode] = nbformat.reads
    try:
        notebook = reads(text.removeprefix(BOM), as_version=4)
        notebooks.check_root(notebook)
        bare = [{key: cell[key] for key in cell if key != "id"} for cell in notebook.cells]
        cells = _identify([b"%d" % at for at in range(len(bare))], bare, previous)
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        raise InvalidNotebook(f"The notebook's old format cannot be read: {error}.", hint=_CONVERT) from error
    return notebooks.shallow(notebook, cells=cells, orig_nbformat=root.get("nbformat", 3))


# --------------------------------------------------------------------------- writing


def splice(document: Document, notebook: NotebookNode) -> Document:
    """The document with another content: the bytes of cells that are the same objects are kept, the others patched.

    Raises:
        InvalidNotebook: the format is read-only.
    """
    require_editable(document)
    writer = Writer(document.style, is_split)
    document = _splice_root(document, notebook, writer)
    old, cells = document.pieces, notebook.cells
    start, old_end, end = _changed(old, cells)
    pieces = [*old[:start], *_splice_cells(document, cells[start:end], start, old_end, writer), *old[old_end:]]
    close = document.close
    if bool(pieces) != bool(old):
        close = document.style.break_line(1).encode() if pieces else b""
    made_up = document.has_made_up_ids or document.notebook.nbformat_minor < 5
    return replace(
        document,
        notebook=notebook,
        pieces=tuple(pieces),
        close=close,
        has_made_up_ids=made_up,
        are_ids_remembered=made_up,
    )


def _changed(old: Sequence[Piece], cells: Sequence[NotebookNode]) -> tuple[int, int, int]:
    """Where the first changed cell is, and where the last one ends: in the old pieces, and among the new cells.

    A cell that comes to the first place, or leaves it, counts as changed: what stands before it differs.
    """
    start, shorter = 0, min(len(old), len(cells))
    while start < shorter and old[start].cell is cells[start]:
        start += 1
    tail, most = 0, shorter - max(start, 1)
    while tail < most and old[-1 - tail].cell is cells[-1 - tail]:
        tail += 1
    return start, len(old) - tail, len(cells) - tail


def _splice_cells(
    document: Document, cells: Sequence[NotebookNode], start: int, old_end: int, writer: Writer
) -> list[Piece]:
    """The pieces of changed cells, which come after `start` others; old ones may be found up to `old_end`."""
    default = document.pieces[1].lead if len(document.pieces) > 1 else document.style.between(2).encode()
    first = document.pieces[0].lead if document.pieces else document.style.break_line(2).encode()
    places = {id(document.pieces[at].cell): at for at in range(start, old_end)}
    by_id = {document.pieces[at].cell["id"]: at for at in range(start, old_end)}
    pieces: list[Piece] = []
    for cell in cells:
        at = places.get(id(cell))
        old = at if at is not None else by_id.get(cell["id"])
        lead = first if not (start or pieces) else document.pieces[old].lead if old else default
        if at is not None:
            same_bytes = document.pieces[at]
            pieces.append(same_bytes if same_bytes.lead == lead else Piece(cell, same_bytes.raw, lead))
        elif old is not None:
            pieces.append(Piece(cell, _patch_cell(document.pieces[old], cell, writer), lead))
        else:
            pieces.append(Piece(cell, _new_cell(cell, writer, document.notebook.nbformat_minor), lead))
    return pieces


def require_editable(document: Document) -> None:
    """Refuse what can be read only.

    Raises:
        InvalidNotebook
    """
    if document.refusal is not None:
        raise InvalidNotebook(document.refusal, hint=_CONVERT)


def _patch_cell(piece: Piece, cell: NotebookNode, writer: Writer) -> bytes:
    old = {**piece.cell, "id": None}
    new = {**cell, "id": None}
    text = piece.raw.decode("utf-8")
    return writer.patch_object(text, 0, old, new, (), 2).encode("utf-8")


def _new_cell(cell: NotebookNode, writer: Writer, minor: int) -> bytes:
    value = {key: value for key, value in cell.items() if key != "id" or minor >= 5}
    return writer.dump(value, (), 2).encode("utf-8")


def _splice_root(document: Document, notebook: NotebookNode, writer: Writer) -> Document:
    old, new = _outside_cells(document.notebook), _outside_cells(notebook)
    if same(old, new):
        return document
    skeleton = document.head.decode("utf-8") + document.tail.decode("utf-8")
    start = skip_space(skeleton, 1 if skeleton.startswith(BOM) else 0)
    raw, end = plain_scanner()(skeleton, start)
    fixed = dict.fromkeys(_FIXED)
    text = writer.patch(skeleton, start, raw, {**old, **fixed}, {**new, **fixed}, (), 0)
    text = skeleton[:start] + text + skeleton[end:]
    items, _ = walk(text, start, lambda text, at, _: plain_scanner()(text, at))
    at = next(item.value_start for item in items if item.key == "cells") + 1
    return replace(document, head=text[:at].encode("utf-8"), tail=text[at:].encode("utf-8"))


_FIXED = ("cells", "nbformat", "nbformat_minor")


def _outside_cells(notebook: NotebookNode) -> dict[str, Any]:
    return {key: value for key, value in notebook.items() if key not in _FIXED}


def render(notebook: Mapping[str, Any]) -> bytes:
    """A new file, laid out as nbformat does."""
    writer = Writer(Style(), lambda path: path[:1] == ("cells",) and is_split(path[2:]))
    minor = notebook.get("nbformat_minor", 5)
    cells = [{key: cell[key] for key in cell if key != "id" or minor >= 5} for cell in notebook["cells"]]
    return (writer.dump({**notebook, "cells": cells}, (), 0) + "\n").encode("utf-8")


_SPLIT_MIMES = ("application/javascript", "image/svg+xml")


def is_split(path: Path) -> bool:
    """Whether nbformat writes the string at this path of a cell as a list of lines."""
    if path == ("source",):
        return True
    if path[:1] == ("outputs",) and len(path) == 3:
        return path[2] == "text"
    if (path[:1] == ("outputs",) and len(path) == 4 and path[2] == "data") or (
        path[:1] == ("attachments",) and len(path) == 3
    ):
        mime = str(path[-1])
        return mime.startswith("text/") or mime in _SPLIT_MIMES
    return False

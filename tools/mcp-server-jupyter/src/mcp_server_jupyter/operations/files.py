"""Operations on files beside the notebooks."""

from __future__ import annotations

from .call import Answer, Call
from .render import numbered


async def list_files(call: Call, path: str = "") -> Answer:
    """Files and folders in `path` (relative to the root), with sizes."""
    entries = await call.services.contents.list(path)
    lines = [
        f"{entry.path}/" if entry.kind == "directory" else f"{entry.path}  {entry.size} bytes" for entry in entries
    ]
    text = numbered(lines, call.answers.max_chars, "give a deeper path.")
    return Answer(
        text or "Empty.",
        {"files": [{"path": e.path, "kind": e.kind, "size": e.size} for e in entries]},
    )

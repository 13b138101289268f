"""What lies below a folder of a Jupyter, which is asked folder by folder: as far as that ends soon."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Any, Literal

import anyio

from ...errors import JupyterMcpError
from ...ports import Entry, Listing
from .contents_api import ContentsApi

MOST_FOLDERS = 500
MOST_SECONDS = 5.0
_LEFT_OUT = ("__pycache__", "node_modules")
_AT_ONCE = 4


async def list_entries(
    api: ContentsApi, folder: str, *, recursive: bool, folders: int = MOST_FOLDERS, seconds: float = MOST_SECONDS
) -> Listing:
    """Files and folders, hidden ones left out, sorted by path. What vanishes meanwhile is left out.

    Args:
        folder: "" is the root.
        folders: are asked at most.
        seconds: after which no further one is begun.

    Raises:
        NotFound, InvalidRequest, Unavailable, Unauthorized
    """
    entries = _entries(await api.folder(folder))
    waiting = deque(entry.path for entry in entries if recursive and entry.kind == "directory")
    asked = 1

    async def ask() -> None:
        nonlocal asked
        while waiting and asked < folders:
            asked += 1
            try:
                below = _entries(await api.folder(waiting.popleft()))
            except JupyterMcpError:
                # It is gone, or nobody may read it.
                continue
            entries.extend(below)
            waiting.extend(entry.path for entry in below if entry.kind == "directory")

    with anyio.move_on_after(seconds) as limit:
        while waiting and asked < folders:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_AT_ONCE, len(waiting))):
                    tasks.start_soon(ask)
    is_late = limit.cancelled_caught
    cut = ""
    if waiting or is_late:
        why = f"after {seconds:g} s" if is_late else f"after {folders} folders"
        cut = f"This list is not whole: it was cut {why}. Name a folder to see what is in it."
    return Listing(sorted(entries, key=lambda entry: entry.path), cut)


def _entries(models: list[dict[str, Any]]) -> list[Entry]:
    return [
        Entry(model["path"].strip("/"), _kind(model), model.get("size"), _time(model.get("last_modified")))
        for model in models
        if not model["name"].startswith(".") and model["name"] not in _LEFT_OUT
    ]


def _kind(model: dict[str, Any]) -> Literal["notebook", "file", "directory"]:
    kind = model.get("type")
    return kind if kind in ("notebook", "directory") else "file"


def _time(value: Any) -> float | None:
    if isinstance(value, datetime):
        return value.timestamp()
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return None

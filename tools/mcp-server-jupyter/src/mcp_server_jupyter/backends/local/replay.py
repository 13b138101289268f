"""Meeting a request again that an earlier server sent: what was recorded, then what still comes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from ...ports import Message, Replay
from ..zmq.dispatch import Dispatch
from ..zmq.request import Request
from . import recorder

_BARRIER_SECONDS = 2.0
_KEPT = "which keeps the newest 256 MB and begins anew when its disk is full"


async def replay(wire: Dispatch, folder: Path, msg_id: str) -> Replay:
    """See `ports.Kernel.resume`. Listens first and reads the record then, so that nothing falls between."""
    live = wire.follow(msg_id)
    await _barrier(wire, folder)
    try:
        recorded, rotated = await anyio.to_thread.run_sync(_recorded, wire, folder, msg_id)
    except OSError as error:
        lost = f"The kernel's record cannot be read: {error.strerror}."
        return Replay(_messages([], live, wire.state == "idle"), complete=False, lost=lost)
    ended = any(_is_idle(message) for message in recorded)
    if recorded and _is_beginning(recorded[0]):
        return Replay(_messages(recorded, live, ended), complete=True)
    if recorded or rotated:
        lost = f"Its first messages were dropped from the kernel's record, {_KEPT}."
        return Replay(_messages(recorded, live, ended or wire.state == "idle"), complete=False, lost=lost)
    # Nothing was published for it: it waits behind what runs now, or it never reached the kernel.
    if wire.state == "busy":
        return Replay(_queued(wire, live), complete=True)
    lost = "The kernel never received this request."
    return Replay(_messages([], live, ended=True), complete=False, lost=lost, received=False)


async def _barrier(wire: Dispatch, folder: Path) -> None:
    """Wait until all that was published before now is in the record.

    The channel keeps its order: once an echo of ours has been recorded, everything before it has been, too.
    """
    if wire.state == "dead":
        return
    mark = uuid.uuid4().hex
    echo = wire.request("kernel_info_request", {}, channel="control", msg_id=mark)
    try:
        # A kernel that answers nothing, such as one inside a long C call, publishes nothing either.
        with anyio.move_on_after(_BARRIER_SECONDS):
            # Another process writes the file, and files cannot be waited for.
            while not _contains(folder, mark.encode()):  # noqa: ASYNC110
                await anyio.sleep(0.01)
    finally:
        await echo.aclose()


def _contains(folder: Path, mark: bytes) -> bool:
    try:
        newest = recorder.segments(str(folder))[-1:]
        if not newest:
            return False
        with open(newest[0], "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - (1 << 20)))
            return mark in file.read()
    except OSError:
        # Dropped this moment, for the next segment.
        return False


def _recorded(wire: Dispatch, folder: Path, msg_id: str) -> tuple[list[Message], bool]:
    """The recorded messages of one request, and whether the record's beginning has been dropped."""
    found = []
    names = recorder.segments(str(folder))
    parent = msg_id.encode()
    for name in names:
        try:
            data = Path(name).read_bytes()
        except FileNotFoundError:
            continue
        if parent not in data:
            continue
        for _, body in recorder.records(data):
            if parent not in body:
                continue
            decoded = wire.codec.decode("iopub", recorder.frames(body))
            if decoded is not None and decoded[0].parent_id == msg_id:
                found.append(decoded[0])
    return found, not (names and names[0].endswith("iopub.1.log"))


async def _messages(recorded: list[Message], live: Request, ended: bool) -> AsyncIterator[Message]:
    try:
        for message in recorded:
            yield message
        if ended:
            return
        seen = {message.msg_id for message in recorded}
        recorded.clear()
        async for message in live:
            if message.msg_id not in seen:
                yield message
    finally:
        await live.aclose()


async def _queued(wire: Dispatch, live: Request) -> AsyncIterator[Message]:
    """Messages of a request that may be in the kernel's queue: it is not if one sent after it is answered first."""
    after = wire.request("kernel_info_request", {})

    async def watch() -> None:
        async for _ in after:
            pass
        live.finish()

    watching = asyncio.create_task(watch())
    try:
        async for message in live:
            yield message
    finally:
        watching.cancel()
        await after.aclose()
        await live.aclose()


def _is_idle(message: Message) -> bool:
    return message.msg_type == "status" and message.content.get("execution_state") == "idle"


def _is_beginning(message: Message) -> bool:
    return message.msg_type == "execute_input" or (
        message.msg_type == "status" and message.content.get("execution_state") == "busy"
    )

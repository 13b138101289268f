"""Our requests to a kernel that others use, too, and how they are packed: without a kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.backends.jupyter import frames
from mcp_server_jupyter.backends.jupyter.requests import SharedDispatch
from mcp_server_jupyter.errors import JupyterMcpError, Unavailable
from mcp_server_jupyter.ports import Channel

pytestmark = pytest.mark.anyio
OURS = "our-session"


class Wire:
    """A kernel that says what it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.marks: list[str] = []
        self.interrupts = 0
        self.refusal: JupyterMcpError | None = None
        self.dispatch = SharedDispatch(OURS, self._send, self._mark, self._interrupt)
        self.dispatch.state = "idle"

    def _send(self, channel: Channel, parts: list[bytes]) -> None:
        header = json.loads(parts[0])
        self.sent.append((header["msg_type"], header["msg_id"]))

    def _mark(self, msg_id: str) -> None:
        if self.refusal is not None and msg_id:
            raise self.refusal
        self.marks.append(msg_id)

    def _interrupt(self) -> None:
        self.interrupts += 1

    def says(self, channel: Channel, msg_type: str, parent: str, session: str = OURS, **content: Any) -> None:
        header = {"msg_type": msg_type, "msg_id": f"{len(self.sent)}-{msg_type}-{parent}", "session": "kernel"}
        asked = "kernel_info_request" if parent.startswith("info") else "execute_request"
        above = {"msg_id": parent, "session": session, "msg_type": asked}
        parts = [header, above, {}, content]
        self.dispatch.receive(channel, [json.dumps(part).encode() for part in parts])

    def runs(self, parent: str, session: str = OURS) -> None:
        self.says("iopub", "status", parent, session, execution_state="busy")

    def ends(self, parent: str, session: str = OURS) -> None:
        if session == OURS:
            self.says("shell", "execute_reply", parent, status="ok")
        self.says("iopub", "status", parent, session, execution_state="idle")


@pytest.fixture
async def wire() -> Wire:
    return Wire()


async def test_one_cell_is_with_the_kernel_at_a_time(wire: Wire) -> None:
    for name in ("one", "two"):
        wire.dispatch.request("execute_request", {"code": ""}, msg_id=name)
    before = list(wire.sent)
    wire.runs("one")
    wire.ends("one")

    assert before == [("execute_request", "one")]
    assert wire.sent == [("execute_request", "one"), ("execute_request", "two")]


async def test_a_cell_waits_until_somebody_elses_has_ended(wire: Wire) -> None:
    wire.runs("theirs", "their-session")
    wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")
    before = list(wire.sent)
    wire.ends("theirs", "their-session")

    assert before == []
    assert wire.sent == [("execute_request", "ours")]


async def test_what_others_ask_beside_a_cell_does_not_end_it(wire: Wire) -> None:
    wire.runs("theirs", "their-session")
    wire.runs("info", "their-session")
    wire.ends("info", "their-session")
    wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")

    assert wire.sent == []
    assert wire.dispatch.running is not None
    assert wire.dispatch.running.msg_id == "theirs"


async def test_what_is_with_the_kernel_is_written_down_before_it_is_sent(wire: Wire) -> None:
    wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")
    assert wire.marks == ["ours"]
    wire.runs("ours")
    wire.ends("ours")

    assert wire.marks == ["ours", ""]


async def test_what_cannot_be_written_down_is_not_sent(wire: Wire) -> None:
    wire.refusal = Unavailable("The disk is full.")
    request = wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")

    with pytest.raises(Unavailable, match="full"):
        await anext(request)
    assert wire.sent == []


async def test_a_cell_that_was_not_sent_is_withdrawn_and_never_sent(wire: Wire) -> None:
    wire.runs("theirs", "their-session")
    request = wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")
    assert wire.dispatch.withdraw("ours")
    wire.ends("theirs", "their-session")

    [reply] = [message async for message in request]
    assert reply.content["ename"] == "KeyboardInterrupt"
    assert wire.sent == []
    assert wire.interrupts == 0


async def test_a_cell_that_was_sent_behind_somebody_elses_is_interrupted_when_it_begins(wire: Wire) -> None:
    wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")
    wire.runs("theirs", "their-session")
    assert wire.dispatch.withdraw("ours")
    during = wire.interrupts
    wire.ends("theirs", "their-session")
    wire.runs("ours")

    assert (during, wire.interrupts) == (0, 1)


async def test_a_cell_whose_iterator_is_closed_before_it_was_sent_is_not_sent(wire: Wire) -> None:
    wire.runs("theirs", "their-session")
    request = wire.dispatch.request("execute_request", {"code": ""}, msg_id="ours")
    await request.aclose()
    wire.ends("theirs", "their-session")

    assert wire.sent == []


@given(
    st.sampled_from(["shell", "iopub", "stdin", "control"]), st.lists(st.binary(max_size=50), min_size=4, max_size=9)
)
def test_packed_messages_are_unpacked_to_what_they_were(channel: Channel, parts: list[bytes]) -> None:
    assert frames.unpack(frames.pack(channel, parts)) == (channel, parts)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_none(data: bytes) -> None:
    assert frames.unpack(data) is None or len(data) >= 48

"""The stream, put together again from pieces of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcp_server_jupyter.backends.kubernetes.pieces import Pieces
from mcp_server_jupyter.backends.shared import recording

messages = st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=4), max_size=20)


def stream_of(messages: list[list[bytes]]) -> bytes:
    bodies = [b"i" + recording.pack(parts)[recording.LENGTH.size :] for parts in messages]
    return b"".join(recording.LENGTH.pack(len(body)) + body for body in bodies)


@given(messages, st.lists(st.integers(1, 40), min_size=1))
def test_records_come_out_once_and_in_order_however_they_are_cut(sent: list[list[bytes]], sizes: list[int]) -> None:
    data, pieces, found, number = stream_of(sent), Pieces(), [], 0
    while pieces.have < len(data):
        size = sizes[number % len(sizes)]
        number += 1
        for kind, frames in pieces.add(data[pieces.have : pieces.have + size]):
            assert kind == "iopub"
            found.append(frames)
    assert found == sent
    assert pieces.at == pieces.have == len(data)


def test_what_follows_a_gap_begins_with_a_whole_record() -> None:
    data, pieces = stream_of([[b"first"], [b"second"]]), Pieces()
    assert list(pieces.add(data[:5])) == []
    assert (pieces.at, pieces.have) == (0, 5)
    pieces.begin(1000)

    assert [frames for _, frames in pieces.add(data)] == [[b"first"], [b"second"]]
    assert pieces.at == 1000 + len(data)

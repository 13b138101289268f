"""Big JSON read in slices is what the parser makes of the whole."""

from __future__ import annotations

import json
import random

import pytest

from mcp_server_jupyter.backends.zmq import big_json

PIECES = ["a", "\n", '"', "\\", "\\\\", "é", "漢", "😀", "\x1b[31m", "\u2028", "\x00", "\\u0041", '\\"', "'"]


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "utf-8"])
def test_strings_of_any_characters_come_whole(monkeypatch: pytest.MonkeyPatch, ascii_only: bool) -> None:
    monkeypatch.setattr(big_json, "SLICE", 64)
    chance = random.Random(7)
    for _ in range(500):
        texts = ["".join(chance.choices(PIECES, k=chance.randrange(400))) for _ in range(3)]
        value = {texts[0]: [texts[1], 1, None, {"k": texts[2], "n": {}}], "last": ""}
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert big_json.loads(data, json.loads) == value


def test_text_of_nothing_but_escapes_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big_json, "SLICE", 64)
    for text in ("\\" * 999, '"' * 1000, "😀" * 500, "\n" * 777, "abc\n" * 999):
        assert big_json.loads(json.dumps({"t": text}).encode(), json.loads) == {"t": text}


@pytest.mark.parametrize(
    "data", [b'{"a": "' + b"x" * 200, b'{"a": "' + b"x" * 200 + b'" "b"}', b'"' + b"\\x" * 100 + b'"']
)
def test_what_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(big_json, "SLICE", 64)
    with pytest.raises(json.JSONDecodeError):
        big_json.loads(data, json.loads)

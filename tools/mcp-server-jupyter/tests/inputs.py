"""Inputs from a seed for every door: calls that are mostly nearly right, and JSON that is not always JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from mcp_server_jupyter.operations import ALIASES, ARGUMENT_ALIASES, OPERATIONS
from mcp_server_jupyter.operations.bind import parameters

JSON = b"application/json"


class Inputs:
    """Inputs from a seed: mostly nearly right, for what is plainly wrong is refused at the first look."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def often(self, share: float) -> bool:
        return self.random.random() < share

    def text(self) -> str:
        return self.random.choice(_TEXTS)() if self.often(0.8) else self._any_text()

    def _any_text(self) -> str:
        pool = (*range(0, 0x80), 0xE9, 0x2028, 0xD800, 0xDFFF, 0xFFFF, 0x1F600)
        return "".join(chr(self.random.choice(pool)) for _ in range(self.random.randrange(12)))

    def number(self) -> Any:
        return self.random.choice(_NUMBERS)

    def value(self, depth: int = 0) -> Any:
        kind = self.random.randrange(8 if depth < 3 else 5)
        if kind < 2:
            return self.text()
        if kind < 4:
            return self.number()
        if kind == 4:
            return self.random.choice((None, True, False))
        if kind == 5:
            return {self.text(): self.value(depth + 1) for _ in range(self.random.randrange(4))}
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return Raw(self.random.choice(_DEEP))

    def operation(self) -> str:
        return self.random.choice((*OPERATIONS, *ALIASES)) if self.often(0.95) else self.text()

    def arguments(self, name: str) -> dict[str, Any]:
        operation = OPERATIONS.get(ALIASES.get(name, name))
        known = parameters(operation) if operation else {}
        given: dict[str, Any] = {}
        for parameter in known.values():
            if parameter.required or self.often(0.25):
                given[parameter.name] = self.argument(parameter)
        if self.often(0.04):
            given[self.random.choice((*ARGUMENT_ALIASES, self.text()))] = self.value()
        return given

    def argument(self, parameter: Any) -> Any:
        if self.often(0.06):
            return self.value()
        if parameter.choices:
            return self.random.choice(parameter.choices)
        if parameter.kind is str:
            likely = _LIKELY.get(parameter.name)
            return self.random.choice(likely) if likely and self.often(0.8) else self.text()
        if parameter.kind is bool:
            return self.often(0.5)
        if "seconds" in parameter.name:
            return self.random.choice((0, 0.01, 1e-9))
        return self.random.choice((0, 1, 2, -1, 5)) if self.often(0.7) else self.number()

    def body(self, value: Any) -> bytes:
        """JSON of a value, sometimes broken."""
        body = dumps(value)
        if self.often(0.94):
            return body
        at = self.random.randrange(len(body) + 1)
        return self.random.choice(
            (
                lambda: body[:at],
                lambda: body[:at] + b"\xff" + body[at:],
                lambda: body[:at] + bytes([self.random.randrange(256)]) + body[at + 1 :],
                lambda: b"\xef\xbb\xbf" + body,
                lambda: body.decode().encode("utf-16"),
                lambda: body + body,
                lambda: b"",
            )
        )()

    def chunks(self) -> int:
        return 1 if self.often(0.9) else self.random.randrange(2, 9)

    def leaves(self) -> bool:
        return self.often(0.02)

    def kind(self) -> bytes:
        return JSON if self.often(0.93) else self.random.choice(_CONTENT_TYPES)


class Raw:
    """JSON text that `json.dumps` would not write."""

    def __init__(self, text: str) -> None:
        self.text = text


def dumps(value: Any) -> bytes:
    raw: dict[str, str] = {}

    def stand_in(inner: Any) -> str:
        assert isinstance(inner, Raw)
        name = f"raw-{len(raw)}-raw"
        raw[f'"{name}"'] = inner.text
        return name

    text = json.dumps(value, default=stand_in)
    for name, meant in raw.items():
        text = text.replace(name, meant)
    return text.encode()


_DEEP = ("[" * 150 + "]" * 150, "[" * 2_000 + "]" * 2_000, '{"a":' * 900 + "1" + "}" * 900, "[" * 50_000)
_NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    1,
    7,
    1.5,
    -0.0,
    2**31,
    2**63,
    -(2**63),
    2**64,
    10**30,
    1e308,
    *map(Raw, ("9" * 5_000, "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1" + "0" * 400 + ".5", "1E+2")),
)
PATHS = ("a.ipynb", "b.ipynb", "folder/c.ipynb", "My Notebook.ipynb", "surrogate.ipynb", "none.ipynb")
_LIKELY: dict[str, tuple[str, ...]] = {
    "notebook_path": PATHS,
    "path": ("", "folder", "none"),
    "kernel_name": ("python3",),
    "python": ("",),
    "cwd": ("", "none"),
    "cell_id": ("c0",),
    "author": ("user",),
    "old_string": ("x",),
    "name": ("x", "print"),
}
_TEXTS: tuple[Callable[[], str], ...] = (
    lambda: "",
    lambda: "a.ipynb",
    lambda: "x = 1\nprint(x)",
    lambda: "1/0",
    lambda: "print('\ud83d')",
    lambda: "../up.ipynb",
    lambda: "/etc/passwd",
    lambda: "a\0b.ipynb",
    lambda: "\ud800",
    lambda: "\udcff.ipynb",
    lambda: "\ud83d\ude00.ipynb",
    lambda: "a" * 5_000,
    lambda: "d/" * 900 + "a.ipynb",
    lambda: "é😀\u2028.ipynb",
    lambda: "%ff%00%",
    lambda: "*?#[]{}",
    lambda: "0",
    lambda: "9" * 5_000,
    lambda: "x1",
    lambda: "c0",
    lambda: "python3",
    lambda: "\r\n\r\n",
    lambda: "null",
)
_CONTENT_TYPES = (b"", b"text/plain", b"application/json; charset=utf-16", b"multipart/form-data", b"\xff\xfe", b"*/*")
_IDS: tuple[Any, ...] = (1, "one", 0, -1, "", 10**30, 1.5, None, True, [], {}, "\ud800", Raw("9" * 5_000))


def call_of(inputs: Inputs, meta: Any = None) -> dict[str, Any]:
    """A JSON-RPC message, and what the modern era adds to it."""
    name = inputs.operation()
    calls: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("tools/call", lambda: {"name": name, "arguments": inputs.arguments(name)}),
        ("tools/call", lambda: {"name": name, "arguments": inputs.value()}),
        ("tools/call", inputs.value),
        ("resources/read", lambda: {"uri": uri_of(inputs)}),
        ("resources/subscribe", lambda: {"uri": uri_of(inputs)}),
        ("resources/unsubscribe", lambda: {"uri": uri_of(inputs)}),
        (
            "completion/complete",
            lambda: {
                "ref": {"type": "ref/resource", "uri": "notebook://{+path}"},
                "argument": {"name": "path", "value": inputs.text()},
            },
        ),
        (
            "prompts/get",
            lambda: {"name": "code_review", "arguments": {"task": inputs.value(), "notebook_path": inputs.text()}},
        ),
        ("resources/list", lambda: {"cursor": inputs.value()}),
        ("tools/list", inputs.value),
        ("ping", inputs.value),
        (inputs.text(), inputs.value),
    )
    method, params = inputs.random.choice(calls[:1] * 8 + calls)
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params()}
    if meta is not None and isinstance(message["params"], dict):
        message["params"]["_meta"] = meta
    if inputs.often(0.1):
        message["id"] = inputs.random.choice(_IDS)
    if inputs.often(0.03):
        message[inputs.random.choice(("jsonrpc", "method", "params", "result", "error"))] = inputs.value()
    if inputs.often(0.03):
        message.pop(inputs.random.choice(tuple(message)))
    return message


def uri_of(inputs: Inputs) -> str:
    path = inputs.random.choice(PATHS) if inputs.often(0.6) else inputs.text()
    end = inputs.random.choice(
        ("", "", "?cell=c0", "?cell=c0&cursor=2", "?cursor=" + inputs.text(), "#c0", "%zz", "/0")
    )
    scheme = inputs.random.choice(("notebook://", "notebook://", "output://", "file:///", "", "NOTEBOOK://"))
    return scheme + path + end

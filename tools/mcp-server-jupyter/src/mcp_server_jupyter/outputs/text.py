"""Pure: the text of outputs. Control sequences off, progress bars collapsed, repeats folded, head and tail kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import charts
from .folding import Line, fold
from .images import without_data_uris
from .markup import html_text

# ECMA-48: CSI, OSC (ended by BEL or ST, bounded so that a stray one cannot swallow the text), then short escapes.
_ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"
    r"|\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)"
    r"|[ -/]+[0-~]|[0-Z\\^-~]"
    r"|(?:\[[0-?]*[ -/]*|\][^\x07\x1b\n]{0,4096}\x1b?|[ -/]*)\Z)|\x1b"
)
_ERASE = re.compile(r"\x1b\[[02]?K")
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
# What `object.__repr__` gives, IPython's display objects among them.
_BARE_OBJECT = re.compile(r"<[\w.\[\], ]+(?: object)?(?: at 0x[0-9a-fA-F]+)?>")
_SEGMENTS = 200
_PIECE = 500_000
_RICH_TYPES = ("text/markdown", "text/latex", "application/json", "text/html", "image/svg+xml")
_TEXT_TYPES = (*_RICH_TYPES, "text/plain")


def strip_ansi(text: str) -> str:
    """Without ANSI escape sequences, unfinished ones at the end included: a grown text keeps its stripped prefix."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def collapse_carriage_returns(text: str) -> str:
    r"""What a terminal shows after `\r`, `\b` and "erase line" did their work: a progress bar's last state.

    For views only; notebooks keep the raw text, as nbclient and Jupyter do.
    """
    if "\r" not in text and "\b" not in text and "\x1b" not in text:
        return text
    text = strip_ansi(_ERASE.sub("\x00", text)) if "\x1b" in text else text
    return "\n".join(_last_state(line) for line in text.split("\n"))


def _last_state(line: str) -> str:
    if "\r" not in line and "\b" not in line:
        return line.replace("\x00", "")
    shown = ""
    for segment in reversed(line.split("\r")):
        segment = _backspaced(segment)
        if len(segment) > len(shown):
            shown += segment[len(shown) :]
        if "\x00" in shown:
            break
    return shown.replace("\x00", "")


def _backspaced(text: str) -> str:
    if "\b" not in text:
        return text
    first, *parts = text.split("\b")
    kept = list(first)
    for part in parts:
        if kept:
            kept.pop()
        kept.extend(part)
    return "".join(kept)


def text_of(value: Any) -> str:
    """Text of a MIME value of whatever type a notebook may hold."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    except (TypeError, ValueError, RecursionError):
        return str(type(value))


def rich_text(data: Mapping[str, Any]) -> str | None:
    """The best text form of a MIME bundle; None when it has none.

    An object's plain text is often no more than its type and address: then what it shows itself as comes first.
    """
    plain = text_of(data["text/plain"]) if "text/plain" in data else None
    chart = charts.summary(data)
    if chart is not None:
        return chart
    if plain is not None and not _says_nothing(plain) and "text/markdown" not in data:
        return plain
    for mime in _RICH_TYPES:
        if mime in data:
            text = _as_text(mime, data[mime])
            if text:
                return text
    return "[HTML without words]" if "text/html" in data else plain


def _says_nothing(plain: str) -> bool:
    return len(plain) < 200 and _BARE_OBJECT.fullmatch(plain.strip()) is not None


def _as_text(mime: str, value: Any) -> str:
    if mime == "text/html":
        return html_text(text_of(value))
    if mime == "image/svg+xml":
        words = html_text(text_of(value))
        return f"[SVG picture: {clip(' '.join(words.split()), 300)}]" if words else "[SVG picture]"
    return without_data_uris(text_of(value))


def output_text(output: Any) -> str:
    """All text of one output, ANSI stripped, nothing collapsed. Images and the like are one line in brackets."""
    if not isinstance(output, Mapping):
        return ""
    kind = output.get("output_type")
    if kind == "stream":
        return strip_ansi(text_of(output.get("text")))
    if kind == "error":
        return strip_ansi(error_text(output))
    data = output.get("data")
    if not isinstance(data, Mapping) or not data:
        return ""
    parts = [] if (text := rich_text(data)) is None else [strip_ansi(text)]
    parts += [f"[{mime}]" for mime in data if isinstance(mime, str) and mime not in _TEXT_TYPES]
    return "\n".join(parts)


def error_text(output: Mapping[str, Any]) -> str:
    """Traceback and message; the message is not said twice."""
    traceback = output.get("traceback")
    lines = [text_of(line) for line in traceback] if isinstance(traceback, list) else [text_of(traceback)]
    ename, body = text_of(output.get("ename")), "\n".join(lines)
    # Notes of an exception (PEP 678) follow its message, each on a line of its own.
    said = any(strip_ansi(line).lstrip().startswith((f"{ename}:", f"\n{ename}:")) for line in lines[-12:])
    said = said or f"\n{ename}: " in strip_ansi("\n".join(lines[-2:])[-10_000:])
    return body if said and ename else f"{body}\n{ename}: {text_of(output.get('evalue'))}".lstrip("\n")


def _printable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _pieces(outputs: Sequence[Any]) -> Iterator[str]:
    """The plain text in pieces, none of them empty; long streams come apart, so that a page costs little."""
    ended = True
    for output in outputs:
        is_stream = isinstance(output, Mapping) and output.get("output_type") == "stream"
        parts = _stripped(text_of(output.get("text"))) if is_stream else iter((output_text(output),))
        for number, text in enumerate(filter(None, parts)):
            if not ended and number == 0:
                yield "\n"
            yield text
            ended = text.endswith("\n")


def _stripped(text: str) -> Iterator[str]:
    """`strip_ansi` piece by piece: no escape sequence goes over the end of a line."""
    start = 0
    while len(text) - start > _PIECE and (cut := text.find("\n", start + _PIECE)) >= 0:
        yield strip_ansi(text[start : cut + 1])
        start = cut + 1
    yield strip_ansi(text[start:])


def plain_text(outputs: Sequence[Any]) -> str:
    """The whole text, ANSI stripped, nothing collapsed; each output starts on a line of its own.

    While outputs only grow, an earlier plain text is a prefix of a later one.
    """
    return _printable("".join(_pieces(outputs)))


def slice_text(outputs: Sequence[Any], cursor: int, limit: int) -> tuple[str, int | None]:
    """A page of `plain_text`: up to `limit` characters from offset `cursor`, and the next cursor or None at the end."""
    start = max(0, cursor)
    end = start + max(1, limit)
    page: list[str] = []
    place = 0
    for piece in _pieces(outputs):
        if place >= end:
            return _printable("".join(page)), end
        page.append(piece[max(0, start - place) : end - place])
        place += len(piece)
    return _printable("".join(page)), (end if end < place else None)


# --------------------------------------------------------------------------- fitting text into a budget


@dataclass(frozen=True, slots=True)
class Where:
    """Where the rest can be read: the call for a cursor, and the plain-text offset this text begins at."""

    call: Callable[[int], str]
    offset: Callable[[], int]


def _shrink_bars(text: str) -> str:
    """Of a line with thousands of carriage returns only the last states matter; cheap, before anything is searched."""
    if "\r" not in text:
        return text
    return "\n".join(
        "\r".join(line.rsplit("\r", _SEGMENTS)[1:]) if line.count("\r") > _SEGMENTS else line
        for line in text.split("\n")
    )


def _clean(text: str) -> str:
    return _CONTROL.sub("", collapse_carriage_returns(text))


def _numbered(text: str, first: int) -> list[Line]:
    return [Line(line, first + index, first + index) for index, line in enumerate(text.split("\n"))]


def fit(text: str, budget: int, where: Where) -> tuple[str, bool]:
    """Text as an agent reads it, at most `budget` characters; True when something was left out.

    Long text keeps its head and its tail. Work is bounded by the budget, not by the text: only a head and a tail
    window are searched.
    """
    if budget <= 0:
        return "", bool(text)
    raw = text
    text = _shrink_bars(text if len(text) < 4_000_000 else text[:2_000_000] + "\n" + text[-2_000_000:])
    window = max(8 * budget, 16_384)
    if len(text) <= 2 * window:
        lines = _numbered(_clean(text).rstrip("\n"), 0)
        shown = "\n".join(line.text for line in lines)
        return (shown, False) if len(shown) <= budget else (_head_and_tail(fold(lines), budget, raw, where), True)
    head = _numbered(_clean(text[:window].rpartition("\n")[0] or text[:window]), 0)
    tail_text = text[-window:].partition("\n")[2] or text[-window:]
    tail_lines = _clean(tail_text)
    tail = _numbered(tail_lines.rstrip("\n"), max(len(head), raw.count("\n") - tail_lines.count("\n")))
    return _head_and_tail_of(fold(head), fold(tail), budget, raw, where), True


def _head_and_tail(lines: list[Line], budget: int, raw: str, where: Where) -> str:
    whole = f"… the whole: {where.call(where.offset())} …"
    shown = "\n".join([*(line.text for line in lines), whole])
    if len(shown) <= budget:
        return shown
    return _head_and_tail_of(lines, lines, budget, raw, where)


def _head_and_tail_of(head: list[Line], tail: list[Line], budget: int, raw: str, where: Where) -> str:
    room = budget - len(_omitted(10**7, 10**9, where, 10**9)) - 2
    if room < 20:
        return clip(tail[-1].text if tail else "", budget)
    first, cut_head = _take(head, room // 2)
    last, _ = _take(tail[::-1], room - sum(len(line.text) + 1 for line in first), from_end=True)
    last.reverse()
    resume = first[-1].last + 1 if first else 0
    until = last[0].first if last else resume
    if until < resume:
        last = [line for line in last if line.first >= resume]
        until = last[0].first if last else resume
    start = _line_offset(raw, resume - 1 if cut_head else resume)
    shown = sum(len(line.text) + 1 for line in last)
    skipped = max(0, len(raw) - start - cut_head - shown)
    offset = where.offset() + len(strip_ansi(raw[:start])) + cut_head
    note = _omitted(max(0, until - resume), skipped, where, offset)
    return "\n".join([line.text for line in first] + [note] + [line.text for line in last])[:budget]


def _take(lines: Sequence[Line], room: int, *, from_end: bool = False) -> tuple[list[Line], int]:
    """As many lines as fit; of a first one that does not, a piece. The number is the length of that piece."""
    taken: list[Line] = []
    for line in lines:
        if len(line.text) + 1 > room:
            if not taken and room > 1:
                piece = line.text[-(room - 1) :] if from_end else line.text[: room - 1]
                return [Line(piece, line.first, line.last)], len(piece)
            break
        taken.append(line)
        room -= len(line.text) + 1
    return taken, 0


def _line_offset(text: str, number: int) -> int:
    """Where line `number` (from 0) begins."""
    place = 0
    for _ in range(number):
        found = text.find("\n", place)
        if found < 0:
            return len(text)
        place = found + 1
    return place


def _omitted(lines: int, chars: int, where: Where, offset: int) -> str:
    what = f"{lines:,} lines ({chars:,} chars)" if lines > 0 else f"{chars:,} chars"
    return f"… {what} omitted; {where.call(offset)} …"


def clip(text: str, budget: int) -> str:
    """The head and the tail of a short text, with an ellipsis between."""
    if len(text) <= budget:
        return text
    if budget < 3:
        return text[: max(0, budget)]
    head = (budget - 1) // 2
    return f"{text[:head]}…{text[len(text) - (budget - 1 - head) :]}"

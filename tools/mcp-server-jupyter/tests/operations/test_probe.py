"""What looks at variables inside a kernel: one hostile object never hides the others, nor stops the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import IntEnum
from typing import Any

import numpy
import pandas
import pytest

from mcp_server_jupyter.operations.probe import PROBE


def ask(user: dict[Any, Any], **question: Any) -> dict[str, Any]:
    namespace = {"user": user, "question": question}
    exec(PROBE, namespace)
    answer: dict[str, Any] = json.loads(str(namespace["answer"]))
    return answer


def listed(**user: Any) -> dict[str, str]:
    """Every variable's line, by its name."""
    found = ask(user, what="list")["variables"]
    return {v["name"]: f"{v['type']} {v['size']} {v['value']}".rstrip() for v in found}


def inspected(value: Any, limit: int = 1000) -> dict[str, Any]:
    return ask({"v": value}, what="inspect", name="v", limit=limit)


class Raises:
    """Whatever is asked of it raises, even what it is."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of request context")

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise SystemExit(3)


class Shaped:
    def __init__(self, shape: Any) -> None:
        self.shape = shape


class Odd(type):
    __module__ = 7  # type: ignore[assignment]

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class OfNoName(metaclass=Odd):
    pass


class Long:
    def __len__(self) -> int:
        return 10**30

    def __repr__(self) -> str:
        return "y" * 10_000_000


class NoText:
    def __repr__(self) -> Any:
        return 7


class Level(IntEnum):
    HIGH = 3


class Words(list[Any]):
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        raise RuntimeError("no")


HOSTILE = {
    "raises": Raises(),
    "class": type("Liar", (), {"__class__": property(lambda self: 1 / 0)})(),
    "shape_huge": Shaped(tuple(range(100_000))),
    "shape_raising": Shaped((Raises(), Raises())),
    "shape_of_texts": Shaped(("x" * 10_000_000,)),
    "nameless": OfNoName(),
    "long": Long(),
    "no_text": NoText(),
    "words": Words(),
    "big": 10**10_000,
    "huge_texts": ["z" * 1_000_000] * 20,
    "itself": None,
    "surrogate": "\ud800",
    "holds": [Raises(), Long(), {1: Raises()}],
}
HOSTILE["itself"] = loop = []  # type: ignore[var-annotated]
loop.append(loop)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_object_is_listed_and_hides_no_other(name: str) -> None:
    shown = listed(before=1, **{name: HOSTILE[name]}, after="text")
    assert list(shown) == ["before", name, "after"]
    assert shown["before"] == "int  1"
    assert shown["after"] == "str len 4 'text'"
    assert len(shown[name]) < 300


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_object_is_inspected_within_the_limit(name: str) -> None:
    shown = inspected(HOSTILE[name], limit=500)
    assert len(shown["text"]) < 600
    assert len(json.dumps(shown)) < 5_000


def test_what_cannot_be_shown_says_why() -> None:
    assert listed(x=Raises())["x"] == "tests.Raises (cannot be shown: RuntimeError)"
    assert inspected(Raises())["text"] == "(cannot be shown: RuntimeError)"


def test_names_that_are_no_names_are_left_out() -> None:
    found = ask({7: 1, ("a",): 2, "ok": 3, "_hidden": 4, "In": [], "json": json}, what="list")
    assert [v["name"] for v in found["variables"]] == ["ok"]


def test_thousands_of_variables_are_counted() -> None:
    found = ask({f"v{at}": at for at in range(3_000)}, what="list")
    assert (len(found["variables"]), found["more"]) == (2_000, 1_000)


def test_usual_values_read_as_usual() -> None:
    shown = listed(n=3, f=1.5, t="abc", xs=[1, 2], d={"a": 1}, many=list(range(100)), level=Level.HIGH, none=None)
    assert shown == {
        "n": "int  3",
        "f": "float  1.5",
        "t": "str len 3 'abc'",
        "xs": "list len 2 [1, 2]",
        "d": "dict len 1 {'a': 1}",
        "many": "list len 100",
        "level": "tests.Level  <Level.HIGH: 3>",
        "none": "NoneType  None",
    }


def test_a_missing_name_tells_similar_ones() -> None:
    missing = ask({"frame": 1}, what="inspect", name="frme", limit=100)["missing"]
    assert "similar: frame" in missing


@pytest.mark.parametrize("text", ["x" * 10_000_000, b"\xff" * 10_000_000, bytearray(10_000_000)])
def test_a_long_text_is_shown_by_its_beginning_and_its_end(text: Any) -> None:
    shown = inspected(text, limit=500)["text"]
    assert len(shown) < 650
    assert "of 10000000 in all" in shown


def test_a_frame_tells_nulls_extremes_and_head() -> None:
    frame = pandas.DataFrame({"n": [1, 2, 7], "x": [0.5, None, -2.0], "s": ["a", None, "c"]})
    shown = inspected(frame)["text"]
    assert "n: int64  min 1, max 7" in shown
    assert "x: float64  1 null, min -2.0, max 0.5" in shown
    assert "1 null" in shown.partition("s: ")[2].partition("\n")[0]
    assert "head:\n" in shown


def test_a_frame_of_hundreds_of_columns_keeps_room_for_its_head() -> None:
    frame = pandas.DataFrame({f"a column of number {at}": [1.0, 2.0] for at in range(300)})
    shown = inspected(frame, limit=1_700)["text"]
    assert "more columns" in shown or "…" in shown
    assert "head:" in shown
    assert len(shown) < 1_800


def test_a_frame_with_two_columns_of_one_name_is_shown() -> None:
    frame = pandas.DataFrame([[1, 2.5]], columns=["a", "a"])
    assert "a: int64  min 1, max 1\n  a: float64  min 2.5, max 2.5" in inspected(frame)["text"]


def test_a_series_tells_nulls_and_extremes() -> None:
    assert "1 null, min 1.0, max 3.0" in inspected(pandas.Series([1.0, None, 3.0]))["text"]


def test_an_array_tells_what_is_no_number() -> None:
    shown = inspected(numpy.array([1.5, float("nan"), float("inf"), -3.0]))["text"]
    assert "1 NaN, 1 inf, min -3.0, max inf" in shown
    assert "min 0, max 11" in inspected(numpy.arange(12).reshape(3, 4))["text"]
    assert "max" not in inspected(numpy.array([float("nan")] * 2))["text"]
    assert "(cannot" not in inspected(numpy.array([]))["text"]
    assert "(cannot" not in inspected(numpy.array(["a", "b"]))["text"]


def test_a_class_is_shown_by_its_source_or_an_outline() -> None:
    assert "return 10**30" in inspected(Long)["text"]
    shown = inspected(subprocess.Popen, limit=600)["text"]
    assert shown.startswith("class Popen\nExecute a child program")
    assert "__init__(self, args" in shown
    assert len(shown) < 650


SLOW = """
import signal, time

class Slow:
    def __len__(self):
        try:
            time.sleep(60)
        except Exception:
            pass
        return 1
    def __repr__(self):
        while True:
            pass

class Stuck:
    def __getattr__(self, name):
        while True:
            pass

user = {"slow": Slow(), "ok": 7, "stuck": Stuck()}
namespace = {"user": user, "question": {"what": "list"}}
exec(PROBE, namespace)
print(namespace["answer"])
assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
"""


def test_an_object_that_takes_for_ever_is_left_and_no_alarm_stays_behind() -> None:
    code = f"PROBE = {PROBE!r}\n{SLOW}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found = {v["name"]: v for v in json.loads(done.stdout)["variables"]}
    assert found["slow"]["size"] == "(took too long)"
    assert found["stuck"]["size"] == "(took too long)"
    assert found["ok"]["value"] == "7"


def test_an_alarm_of_the_users_own_is_left_alone() -> None:
    code = (
        "import signal\nrung = []\nsignal.signal(signal.SIGALRM, lambda *_: rung.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3)\nnamespace = {'user': {'x': 1}, 'question': {'what': 'list'}}\n"
        f"exec({PROBE!r}, namespace)\nsignal.pause()\nprint(rung)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[1]\n"

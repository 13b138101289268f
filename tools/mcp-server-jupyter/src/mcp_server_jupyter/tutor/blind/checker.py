"""The process that the tests of one task run in, forked by `forkserver`.

It speaks lines of JSON over a socket. It is sent one check at a time, asks what it needs of the learner's
kernel, and answers a verdict. Every name of the notebook is a proxy here: calls, attributes, items, `len`, iteration
and `__array__` are evaluated in the learner's kernel; values that have a form of their own come over and are compared
here. So arguments are seen by the learner's code, and nothing else of a test is.
"""

from __future__ import annotations

import ast
import base64
import builtins
import contextlib
import importlib
import io
import json
import os
import resource
from collections.abc import Iterator
from typing import Any, TextIO
from weakref import WeakValueDictionary

from .codec import Codec

MEMORY_BYTES = 256 * 2**20
OWN = "<check>"
_MOST_MESSAGE = 1_000
_TOLD = frozenset({"__name__", "__qualname__", "__doc__"})
_CAUTIOUS, _MOST_AT_ONCE = 4, 256


class RaisedThere(Exception):
    """What the learner's code raised, where it is no built-in exception."""


class Learner:
    """The learner's kernel, as the tests meet it."""

    def __init__(self, out: TextIO, into: TextIO) -> None:
        self._out, self._in = out, into
        self._proxies: WeakValueDictionary[int, Proxy] = WeakValueDictionary()
        self.codec = Codec(self._refer, self._resolve)

    def ask(self, do: str, **question: Any) -> dict[str, Any]:
        """Ask the kernel; what its code raises is raised here, as the built-in exception it is a kind of."""
        print(json.dumps({"ask": {"do": do, **question}}), file=self._out, flush=True)
        told: dict[str, Any] = json.loads(base64.b64decode(json.loads(self._in.readline())))
        if not isinstance(told, dict):
            raise ValueError("no answer")
        if "raised" in told:
            raise _raised(told["raised"])
        return told

    def value(self, do: str, **question: Any) -> Any:
        """Ask for one value."""
        return self.codec.decode(self.ask(do, **question)["value"])

    def call(self, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call what is there; lists, dicts, sets and arrays that it changed are changed here as well."""
        sent = [self.codec.encode(each) for each in args]
        told = self.ask(
            "call", on=number, args=sent, named={key: self.codec.encode(each) for key, each in named.items()}
        )
        for at, after in told.get("changed", ()):
            _change(args[at], self.codec.decode(after))
        return self.codec.decode(told["value"])

    def _refer(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Proxy):
            return {"t": "ref", "id": value._number}
        raise TypeError(f"a {type(value).__name__} of a test cannot be sent to the notebook")

    def _resolve(self, told: dict[str, Any]) -> Proxy:
        number = int(told["id"])
        known = self._proxies.get(number)
        if known is None:
            kind = CallableProxy if told.get("callable") else IteratorProxy if told.get("iterator") else Proxy
            known = self._proxies[number] = kind(self, number, str(told.get("type")))
        return known


class Proxy:
    """Something of the notebook that has no form as a value. Equal to itself only."""

    __slots__ = ("__weakref__", "_learner", "_number", "_type_name")

    def __init__(self, learner: Learner, number: int, type_name: str) -> None:
        self._learner, self._number, self._type_name = learner, number, type_name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _TOLD:
            # Protocols are not the learner's to speak here: `__array_interface__` would have numpy read any address.
            raise AttributeError(name)
        return self._learner.value("attribute", on=self._number, name=name)

    def __getitem__(self, key: Any) -> Any:
        return self._learner.value("item", on=self._number, key=self._learner.codec.encode(key))

    def __len__(self) -> int:
        return int(self._learner.value("len", on=self._number))

    def __bool__(self) -> bool:
        return bool(self._learner.value("bool", on=self._number))

    def __int__(self) -> int:
        return int(self._learner.value("int", on=self._number))

    def __float__(self) -> float:
        return float(self._learner.value("float", on=self._number))

    def __str__(self) -> str:
        return str(self._learner.value("str", on=self._number))

    def __repr__(self) -> str:
        return str(self._learner.value("repr", on=self._number))

    def __iter__(self) -> Iterator[Any]:
        it: Iterator[Any] = self._learner.value("iter", on=self._number)
        return it

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self._learner.value("array", on=self._number)
        return array if dtype is None else array.astype(dtype)

    def __instancecheck__(self, value: Any) -> bool:
        sent = self._learner.codec.encode(value)
        return bool(self._learner.value("isinstance", on=self._number, value=sent))

    def __subclasscheck__(self, value: Any) -> bool:
        sent = self._learner.codec.encode(value)
        return bool(self._learner.value("issubclass", on=self._number, value=sent))


class CallableProxy(Proxy):
    """A function, a class, a method."""

    __slots__ = ()

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._learner.call(self._number, args, named)


class IteratorProxy(Proxy):
    """An iterator: its first values come one by one, later ones together."""

    __slots__ = ("_ahead", "_ended", "_taken")

    def __init__(self, learner: Learner, number: int, type_name: str) -> None:
        super().__init__(learner, number, type_name)
        self._ahead: list[Any] = []
        self._taken, self._ended = 0, False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._ahead:
            if self._ended:
                raise StopIteration
            most = 1 if self._taken < _CAUTIOUS else min(self._taken, _MOST_AT_ONCE)
            told = self._learner.ask("next", on=self._number, most=most)
            self._ahead = [self._learner.codec.decode(each) for each in reversed(told["values"])]
            self._ended = bool(told["ended"])
            if not self._ahead:
                raise StopIteration
        self._taken += 1
        return self._ahead.pop()


class Names(dict[str, Any]):
    """What tests see: their own names, the modules that the template imports, builtins, and the notebook's names."""

    def __init__(self, learner: Learner) -> None:
        super().__init__({"__name__": "__check__", "__builtins__": builtins})
        self._learner = learner
        self._deleted: set[str] = set()
        self.imported: dict[str, list[str]] = {}
        self.defined: set[str] = set()

    def __delitem__(self, name: str) -> None:
        """Of a name of the notebook: it is gone there as well, until the test puts back what it was."""
        if name in self:
            super().__delitem__(name)
        elif self._learner.ask("delete", name=name).get("missing"):
            raise KeyError(name)
        else:
            self._deleted.add(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._deleted and isinstance(value, Proxy):
            # What is the notebook's already tells it nothing.
            self._learner.ask("set", name=name, value=self._learner.codec.encode(value))
            self._deleted.remove(name)
        else:
            super().__setitem__(name, value)

    def __missing__(self, name: str) -> Any:
        # Modules by the template's own words, never by what a learner's name happens to be: what a function of a
        # module is called with would otherwise be seen there.
        if name in self.imported:
            module, attribute = self.imported[name]
            found: Any = importlib.import_module(module)
            return getattr(found, attribute) if attribute else found
        if hasattr(builtins, name) and name not in self.defined:
            raise KeyError(name)
        told = self._learner.ask("name", name=name)
        if told.get("missing"):
            raise KeyError(name)
        return self._learner.codec.decode(told["value"])


class Different(AssertionError):
    """What an example shows is not what it should."""


def _raised(told: dict[str, Any]) -> BaseException:
    kind: type[BaseException] = RaisedThere
    for name in told.get("mro", ()):
        found = getattr(builtins, str(name), None)
        if isinstance(found, type) and issubclass(found, Exception) and found is not Exception:
            kind = found
            break
    try:
        error = kind(str(told.get("text", "")))
    except TypeError:
        # A UnicodeDecodeError wants five arguments.
        error = RaisedThere(str(told.get("text", "")))
    error.there = told  # type: ignore[attr-defined]
    return error


def _change(mine: Any, after: Any) -> None:
    if isinstance(mine, list):
        mine[:] = after
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(after)
    elif hasattr(mine, "shape") and mine.shape == after.shape:
        mine[...] = after


def put(check: dict[str, Any], names: Names) -> dict[str, Any]:
    """Run one check; its verdict."""
    names.imported, names.defined = check["imported"], set(check["defined"])
    try:
        for source, wanted in check["examples"]:
            _show(source, wanted, names)
    except BaseException as error:  # noqa: BLE001  (whatever a test comes to is its verdict)
        return _verdict(error)
    return {"state": "passed"}


def _show(source: str, wanted: str | None, names: Names) -> None:
    """Run an example; where something is wanted, what it prints and its last value have to be that."""
    tree = ast.parse(source, OWN)
    last = tree.body.pop() if wanted is not None and tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, OWN, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), OWN, "eval"), names)
            if value is not None:
                print(repr(value))  # noqa: T201  (an example's value is shown as doctest does)
    if wanted is not None and printed.getvalue().split() != wanted.split():
        raise Different


def _verdict(error: BaseException) -> dict[str, Any]:
    detail = f"{type(error).__name__}: {error}"[:_MOST_MESSAGE] if not isinstance(error, Different) else "different"
    there = getattr(error, "there", None)
    if there is not None:
        is_import = "ImportError" in there.get("mro", ())
        return {"state": "import_error" if is_import else "error", "raised": there, "detail": detail}
    step, last = error.__traceback__, None
    while step is not None:
        step, last = step.tb_next, step
    is_own = last is not None and last.tb_frame.f_code.co_filename == OWN
    # What a library asserts names the value that was expected; what the test says itself is meant to be read.
    message = str(error)[:_MOST_MESSAGE] if type(error) is AssertionError and is_own else ""
    return {"state": "failed", "message": message, "detail": detail}


def serve(line: int) -> None:
    """Serve one task over a socket, until that ends."""
    # Data only: libraries map much more than they use.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", ARROW_NUM_THREADS="1")
    out = os.fdopen(os.dup(line), "w", encoding="utf-8")
    into = os.fdopen(line, encoding="utf-8")
    names = Names(Learner(out, into))
    for sent in into:
        print(json.dumps({"verdict": put(json.loads(sent), names)}), file=out, flush=True)

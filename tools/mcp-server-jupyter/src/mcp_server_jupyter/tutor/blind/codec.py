"""Values on their way between a learner's kernel and the process that tests run in, as JSON.

Known to both sides: the kernel is sent this file as text, so it imports the standard library only and speaks the Python
of old kernels. Nothing is pickled. What has no form of its own here stays where it is and is named by a number.

Scalars and lists are themselves; anything else is an object with `t`, its kind:

| t | holds |
|---|---|
| `int`, `float`, `complex`, `bytes` | what JSON cannot carry: hexadecimal, text, two texts, base64 |
| `tuple`, `set`, `frozenset` | `v`, the members |
| `dict` | `v`, pairs |
| `array`, `scalar` | of numpy: `dtype`, `shape`, `v` in base64, or members where the dtype is object |
| `frame`, `series` | of pandas: orient "split" and the dtypes |
| `ref` | `id`, whether it is `callable`, and its `type`'s name |
"""

from __future__ import annotations

import base64
import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

MOST_MEMBERS = 200000
MOST_LEVELS = 40
_PLAIN_DICTS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_KINDS = "biufcmMSU"


class Unencodable(Exception):
    """A value too big or too deep to be sent, or of a type without a form."""


class Codec:
    """Encodes and decodes.

    Args:
        refer: makes a `ref` of a value that stays here, or raises `Unencodable`.
        resolve: the value of a `ref` that came back or came over.
    """

    def __init__(self, refer: Callable[[Any], Any], resolve: Callable[[dict[str, Any]], Any]) -> None:
        self._refer = refer
        self._resolve = resolve
        self._members = 0

    def encode(self, value: Any) -> Any:
        """A value as JSON has it; a `ref` where it is too big or too deep."""
        self._members = 0
        try:
            return self._encode(value, 0)
        except (Unencodable, RecursionError):
            return self._refer(value)

    def _encode(self, value: Any, level: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            self._count(len(value) // 8)
            return value
        if kind is int:
            return value if -(2**53) < value < 2**53 else {"t": "int", "v": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"t": "float", "v": repr(value)}
        if kind is complex:
            return {"t": "complex", "v": [repr(value.real), repr(value.imag)]}
        if kind in (bytes, bytearray):
            self._count(len(value) // 8)
            return {"t": "bytes", "v": base64.b64encode(bytes(value)).decode()}
        return self._encode_container(value, kind, level)

    def _encode_container(self, value: Any, kind: type, level: int) -> Any:
        if level > MOST_LEVELS:
            raise Unencodable
        if kind is list:
            return self._all(value, level)
        if kind in (tuple, set, frozenset):
            return {"t": kind.__name__, "v": self._all(list(value), level)}
        if kind in _PLAIN_DICTS:
            pairs = list(value.items())
            return {"t": "dict", "v": [[self._encode(k, level + 1), self._encode(v, level + 1)] for k, v in pairs]}
        module = getattr(kind, "__module__", "")
        if module == "numpy" or module.startswith("numpy."):
            return self._encode_numpy(value, kind, level)
        if module.startswith("pandas.") or module == "pandas":
            return self._encode_pandas(value, kind, level)
        return self._refer(value)

    def _all(self, values: Sequence[Any], level: int) -> list[Any]:
        self._count(len(values))
        return [self._encode(each, level + 1) for each in values]

    def _count(self, members: int) -> None:
        self._members += members + 1
        if self._members > MOST_MEMBERS:
            raise Unencodable

    def _encode_numpy(self, value: Any, kind: type, level: int) -> Any:
        import numpy  # noqa: PLC0415  (only where it is used)

        if kind is numpy.ndarray and value.dtype == object:
            members = self._all(value.ravel().tolist(), level)
            return {"t": "array", "dtype": "object", "shape": list(value.shape), "v": members}
        is_scalar = isinstance(value, numpy.generic)
        if (kind is numpy.ndarray or is_scalar) and value.dtype.kind in _KINDS and value.dtype.names is None:
            self._count(value.nbytes // 8)
            data = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode()
            shape = [] if is_scalar else list(value.shape)
            return {"t": "scalar" if is_scalar else "array", "dtype": value.dtype.str, "shape": shape, "v": data}
        return self._refer(value)

    def _encode_pandas(self, value: Any, kind: type, level: int) -> Any:
        if kind.__name__ not in ("DataFrame", "Series", "Index", "RangeIndex"):
            return self._refer(value)
        if kind.__name__ == "DataFrame":
            columns = [value.iloc[:, at] for at in range(value.shape[1])]
            return {
                "t": "frame",
                "columns": self._all(value.columns.tolist(), level),
                "index": self._all(value.index.tolist(), level),
                "data": [self._column(each, level) for each in columns],
                "dtypes": [str(each.dtype) for each in columns],
            }
        if kind.__name__ == "Series":
            name = self._encode(value.name, level + 1)
            index = self._all(value.index.tolist(), level)
            return {
                "t": "series",
                "name": name,
                "index": index,
                "data": self._column(value, level),
                "dtype": str(value.dtype),
            }
        return {"t": "index", "v": self._all(value.tolist(), level)}

    def _column(self, series: Any, level: int) -> Any:
        dtype = getattr(series.dtype, "kind", "O")
        if type(series.dtype).__module__.startswith("numpy") and dtype in _KINDS:
            return self._encode(series.to_numpy(), level + 1)
        return self._all([None if _is_missing(each) else _plain(each) for each in series.tolist()], level)

    # ------------------------------------------------------------------ decoding

    def decode(self, value: Any) -> Any:
        """The value that was encoded.

        Raises:
            ValueError: it was not encoded by this.
        """
        try:
            return self._decode(value)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("no encoded value") from error

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(each) for each in value]
        if not isinstance(value, dict):
            return value
        kind = value["t"]
        if kind == "ref":
            return self._resolve(value)
        if kind in ("array", "scalar"):
            return self._decode_numpy(value, kind)
        if kind in ("frame", "series", "index"):
            return self._decode_pandas(value, kind)
        inner = value["v"]
        if kind == "int":
            return int(inner, 16)
        if kind == "float":
            return float(inner)
        if kind == "complex":
            return complex(float(inner[0]), float(inner[1]))
        if kind == "bytes":
            return base64.b64decode(inner)
        if kind == "dict":
            return {self._decode(k): self._decode(v) for k, v in inner}
        containers: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
        return containers[kind](self._decode(each) for each in inner)

    def _decode_numpy(self, value: dict[str, Any], kind: str) -> Any:
        import numpy  # noqa: PLC0415

        shape = tuple(int(each) for each in value["shape"])
        if value["dtype"] == "object":
            objects = numpy.empty(len(value["v"]), dtype=object)
            for at, each in enumerate(value["v"]):
                objects[at] = self._decode(each)
            return objects.reshape(shape)
        dtype = numpy.dtype(str(value["dtype"]))
        if dtype.kind not in _KINDS or dtype.names is not None:
            raise ValueError("no dtype of a value")
        made: Any = numpy.frombuffer(base64.b64decode(value["v"]), dtype=dtype).reshape(shape).copy()
        return made[()] if kind == "scalar" else made

    def _decode_pandas(self, value: dict[str, Any], kind: str) -> Any:
        import pandas  # type: ignore[import-untyped]  # noqa: PLC0415

        if kind == "index":
            return pandas.Index(self._decode(value["v"]))
        index = self._decode(value["index"])
        if kind == "series":
            return self._series(value["data"], value["dtype"], index, self._decode(value["name"]))
        columns = self._decode(value["columns"])
        made = [
            self._series(data, dtype, index, at)
            for at, (data, dtype) in enumerate(zip(value["data"], value["dtypes"]))  # noqa: B905  (not in old kernels)
        ]
        frame = pandas.concat(made, axis=1) if made else pandas.DataFrame(index=index)
        frame.columns = columns if columns else frame.columns
        return frame

    def _series(self, data: Any, dtype: str, index: Any, name: Any) -> Any:
        import pandas  # noqa: PLC0415

        values = self._decode(data)
        try:
            return pandas.Series(values, index=index, name=name, dtype=dtype)
        except (TypeError, ValueError):
            return pandas.Series(values, index=index, name=name)


def _is_missing(value: Any) -> bool:
    return type(value).__name__ in ("NAType", "NaTType") or (type(value) is float and value != value)


def _plain(value: Any) -> Any:
    """Timestamps and the like by their text: their dtype makes them anew."""
    return value if isinstance(value, (bool, int, float, str, list, dict, tuple)) else str(value)

"""What answers questions inside the learner's kernel. Sent there as text, behind `codec`; never run by the service.

It knows no test and no expected value. Whoever changes it there changes the answers of their own work, as they could by
changing that.
"""

from __future__ import annotations

import base64
import json
import linecache
import sys
from typing import Any

from .codec import Codec

MOST_FRAMES = 6
MOST_TEXT = 2000


class Side:
    """The kernel's side.

    Args:
        user: the notebook's variables.
        own: the file name this runs under, to tell its frames from the learner's.
    """

    def __init__(self, user: dict[str, Any], own: str) -> None:
        self._user = user
        self._own = own
        self._kept: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._codec = Codec(self._refer, self._resolve)

    def _refer(self, value: Any) -> dict[str, Any]:
        number = self._numbers.get(id(value))
        if number is None:
            number = len(self._kept) + 1
            self._kept[number] = value
            self._numbers[id(value)] = number
        kind = type(value)
        is_iterator = hasattr(kind, "__next__")
        return {
            "t": "ref",
            "id": number,
            "callable": callable(value),
            "iterator": is_iterator,
            "type": str(kind.__name__)[:100],
        }

    def _resolve(self, value: dict[str, Any]) -> Any:
        return self._kept[value["id"]]

    def answer(self, question: str) -> str:
        """The answer to a question, both JSON in base64: so it reaches the service as it left."""
        asked = json.loads(base64.b64decode(question).decode())
        try:
            told = self._answer(asked)
        except BaseException as error:  # noqa: BLE001  (whatever the learner's code raises is the answer)
            told = {"raised": self._raised(error)}
        return base64.b64encode(json.dumps(told).encode()).decode()

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        do = asked["do"]
        if do == "name":
            if asked["name"] not in self._user:
                return {"missing": True}
            return {"value": self._codec.encode(self._user[asked["name"]])}
        if do == "delete":
            return {"missing": True} if self._user.pop(asked["name"], self) is self else {}
        if do == "set":
            self._user[asked["name"]] = self._codec.decode(asked["value"])
            return {}
        if do == "call":
            return self._call(asked)
        if do == "failure":
            # IPython leaves there what the last cell raised.
            return {"raised": self._raised(getattr(sys, "last_value", None) or Exception())}
        on = self._kept[asked["on"]]
        if do == "next":
            return self._next(on, asked["most"])
        if do == "isinstance":
            return {"value": isinstance(self._codec.decode(asked["value"]), on)}
        if do == "issubclass":
            return {"value": issubclass(self._codec.decode(asked["value"]), on)}
        if do == "array":
            import numpy  # noqa: PLC0415

            return {"value": self._codec.encode(numpy.asarray(on))}
        if do == "attribute":
            return {"value": self._codec.encode(getattr(on, asked["name"]))}
        if do == "item":
            return {"value": self._codec.encode(on[self._codec.decode(asked["key"])])}
        plain: dict[str, Any] = {"len": len, "str": str, "repr": repr, "bool": bool, "int": int, "float": float}
        if do == "iter":
            return {"value": self._refer(iter(on))}
        return {"value": plain[do](on)}

    def _call(self, asked: dict[str, Any]) -> dict[str, Any]:
        given = [self._codec.decode(each) for each in asked["args"]]
        named = {key: self._codec.decode(each) for key, each in asked["named"].items()}
        value = self._codec.encode(self._kept[asked["on"]](*given, **named))
        changed = []
        for at, each in enumerate(given):
            # What was given to be changed is to be seen changed.
            if type(each).__name__ in ("list", "dict", "set", "ndarray"):
                after = self._codec.encode(each)
                if after != asked["args"][at]:
                    changed.append([at, after])
        return {"value": value, "changed": changed}

    def _next(self, iterator: Any, most: int) -> dict[str, Any]:
        found = []
        for _ in range(most):
            try:
                found.append(self._codec.encode(next(iterator)))
            except StopIteration:
                return {"values": found, "ended": True}
        return {"values": found, "ended": False}

    def _raised(self, error: BaseException) -> dict[str, Any]:
        try:
            text = str(error)[:MOST_TEXT]
        except Exception:  # noqa: BLE001
            text = ""
        return {
            "type": type(error).__name__[:100],
            "mro": [each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins"],
            "text": text,
            "frames": self._frames(error.__traceback__),
        }

    def _frames(self, step: Any) -> list[str]:
        frames = []
        while step is not None:
            code = step.tb_frame.f_code
            name = code.co_filename
            if name != self._own and ("ipykernel_" in name or name.startswith("<ipython-input")):
                line = linecache.getline(name, step.tb_lineno).strip()[:200]
                frames.append(f"line {step.tb_lineno}, in {code.co_name}: {line}")
            step = step.tb_next
        return frames[-MOST_FRAMES:]

"""Sentences that are understood without a model: each is one operation. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_NOTEBOOK = r"(?:(?P<own>this notebook)|(?:the )?(?:notebook )?[`'\"]?(?P<notebook_path>[^`'\"]+?\.ipynb)[`'\"]?)"
_HERE = r"(?: (?P<here>here|(?:in|below|of|from) (?:the |this )?(?:(?:current|working) )*(?:directory|folder)))"
_FOLDER = rf"(?:{_HERE}| (?:in|below|of|from) (?:the )?(?:folder |directory )?[`'\"]?(?P<path>[^`'\"]+?)[`'\"]?)?"
_LIST = r"(?:please )?(?:list|show)(?: me)?(?: all)?(?: of)?(?: my| the)?"

_PHRASES = (
    (rf"{_LIST} notebooks{_FOLDER}", "list_notebooks", "list notebooks [in FOLDER | in the current directory]"),
    (rf"{_LIST} files{_FOLDER}", "list_files", "list files [in FOLDER | in the current directory]"),
    (rf"{_LIST} (?:running )?kernels", "list_kernels", "list kernels"),
    (rf"{_LIST} variables (?:of|in) {_NOTEBOOK}", "list_variables", "list variables of NAME.ipynb"),
    (rf"(?:outline|describe|outline of) {_NOTEBOOK}", "get_notebook_info", "outline NAME.ipynb"),
    (
        rf"(?:read|show) (?:the )?cell (?P<cell_index>\d{{1,9}}) (?:of|in) {_NOTEBOOK}",
        "read_cell",
        "read cell 0 of NAME.ipynb",
    ),
    (rf"(?:read|show)(?: (?:all )?(?:the )?cells (?:of|in))? {_NOTEBOOK}", "read_all_cells", "read NAME.ipynb"),
    (rf"run(?: all)?(?: (?:the )?cells (?:of|in))? {_NOTEBOOK}", "run_all_cells", "run NAME.ipynb"),
    (
        rf"create (?:a |the )?(?:new )?(?:notebook )?(?:called |named )?{_NOTEBOOK}",
        "create_notebook",
        "create notebook NAME.ipynb",
    ),
)

EXAMPLES = tuple(example for _, _, example in _PHRASES)
"""How each may be said; `this notebook` stands for a name, too."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A sentence that is known: the operation it means. `is_here` where its folder is the working directory."""

    operation: str
    arguments: dict[str, Any]
    is_here: bool = False


def understand(text: str) -> Understood | None:
    """The operation that a sentence means; None if it is not known."""
    sentence = " ".join(text.split()).rstrip(".!? ")
    for pattern, operation, _ in _PHRASES:
        if found := re.fullmatch(pattern, sentence, re.IGNORECASE):
            return _meant(operation, {name: value for name, value in found.groupdict().items() if value is not None})
    return None


def _meant(operation: str, named: dict[str, Any]) -> Understood:
    is_here = named.pop("here", None) is not None
    named.pop("own", None)
    if "cell_index" in named:
        named["cell_index"] = int(named["cell_index"])
    return Understood(operation, named, is_here)

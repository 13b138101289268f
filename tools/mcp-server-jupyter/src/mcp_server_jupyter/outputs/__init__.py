"""Pure: Jupyter messages become nbformat outputs, outputs a bounded view. Imports ports only; anybody may import it."""

from .images import Image
from .reducer import OutputReducer
from .text import collapse_carriage_returns, plain_text, slice_text, strip_ansi
from .view import View, is_heavy, view

__all__ = [
    "Image",
    "OutputReducer",
    "View",
    "collapse_carriage_returns",
    "is_heavy",
    "plain_text",
    "slice_text",
    "strip_ansi",
    "view",
]

"""Pure: Jupyter messages become nbformat outputs, outputs a bounded view. Imports ports only; anybody may import it."""

from .changes import OutputOp, feed_sink, output_ops, whole
from .images import Image
from .reducer import OutputReducer
from .text import collapse_carriage_returns, plain_text, slice_text, strip_ansi
from .view import MOST_BASE64, View, is_heavy, page, view

__all__ = [
    "MOST_BASE64",
    "Image",
    "OutputOp",
    "OutputReducer",
    "View",
    "collapse_carriage_returns",
    "feed_sink",
    "is_heavy",
    "output_ops",
    "page",
    "plain_text",
    "slice_text",
    "strip_ansi",
    "view",
    "whole",
]

"""Pure: Jupyter messages become nbformat outputs, outputs a bounded view. Imports ports only; anybody may import it."""

from .changes import OutputOp, feed_sink, output_ops, whole
from .images import Image
from .reducer import OutputReducer
from .text import collapse_carriage_returns, plain_text, slice_text, strip_ansi
from .view import MOST_BASE64, View, is_heavy, page, view
from .widget_text import readable
from .widgets import STATE_MIME, WidgetModel, WidgetModels, models_in, reachable, saved_state, views_in

__all__ = [
    "MOST_BASE64",
    "STATE_MIME",
    "Image",
    "OutputOp",
    "OutputReducer",
    "View",
    "WidgetModel",
    "WidgetModels",
    "collapse_carriage_returns",
    "feed_sink",
    "is_heavy",
    "models_in",
    "output_ops",
    "page",
    "plain_text",
    "reachable",
    "readable",
    "saved_state",
    "slice_text",
    "strip_ansi",
    "view",
    "views_in",
    "whole",
]

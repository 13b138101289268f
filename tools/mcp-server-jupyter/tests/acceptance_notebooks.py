"""Small notebooks that each show one behaviour of a kernel's messages."""

from __future__ import annotations

BEHAVIOURS: dict[str, list[str]] = {
    "streams, results and counts": [
        "print('a')\nprint('b')",
        "import sys\nprint('err', file=sys.stderr)\n1 + 1",
        "None",
        "_ * 2",
    ],
    "clear_output at once and on the next output": [
        "from IPython.display import clear_output\nprint('gone')\nclear_output()\nprint('kept')",
        "print('shown until the next')\nclear_output(wait=True)\nprint('next')",
        "print('stays')\nclear_output(wait=True)",
    ],
    "displays that are updated": [
        "from IPython.display import display\nh = display('one', display_id=True)",
        "h.update('two')",
        "h2 = display('x', display_id='same')\ndisplay('y', display_id='same')\nh2.update('z')",
    ],
    "rich results": [
        "from IPython.display import HTML, Markdown, JSON, Latex\nHTML('<b>b</b>')",
        "display(Markdown('# m'), JSON({'a': [1]}), Latex('$x$'))",
        "class R:\n    def _repr_html_(self): return '<i>r</i>'\n    def __repr__(self): return 'r'\nR()",
    ],
    "a plot": [
        "%matplotlib inline\nimport matplotlib.pyplot as plt",
        "fig, ax = plt.subplots(figsize=(2, 2))\n_ = ax.plot([1, 2])",
    ],
    "errors that stop": ["a = 1", "raise ValueError('no')", "print('never')"],
    "magics, shell and many lines": [
        "%pwd\n!echo shell",
        "for i in range(3000):\n    print(i)",
        "%%capture c\nprint('hidden')",
    ],
    "empty and silent cells": ["", "   ", "x = 1;", "x"],
}

"""Runs the agent from its path alone: `python3 -I FOLDER/backends/kubernetes/agent/__main__.py AGENT.json`."""

import importlib
import os
import sys


def begin() -> None:
    """Make the folders above importable, as they are named, and hand over."""
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    # Only the plain files of the delivery lie there.
    sys.path.insert(0, root)
    importlib.import_module("backends.kubernetes.agent.agent").main(sys.argv[1])


if __name__ == "__main__":
    begin()

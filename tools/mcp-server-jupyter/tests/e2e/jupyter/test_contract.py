"""What every contents backend must do, over the rooms of jupyter-collaboration: the very tests of tests/contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from a_jupyter import TOKEN, Jupyter
from contract import test_contents as contract
from mcp_server_jupyter.backends.jupyter.contents import JupyterContents
from mcp_server_jupyter.settings import Settings

# A room gives an empty notebook an empty cell.
ANOTHER = "test_edits_of_one_notebook_wait_for_each_other"
globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_") and name != ANOTHER})
pytestmark = pytest.mark.anyio
contents = contract.contents


@pytest.fixture(params=["jupyter"])
def backend(jupyter: Jupyter, tmp_path: Path) -> Any:
    """One that is not open yet, over nothing."""
    given = {"root": tmp_path, "state_dir": tmp_path / "state", "jupyter_url": jupyter.url, "jupyter_token": TOKEN}
    return JupyterContents(Settings.load(given, {}))

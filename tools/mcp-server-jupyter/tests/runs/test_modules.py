"""Which modules a notebook needs is told without running it, and only where that is certain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mcp_server_jupyter.runs.modules import imported, missing

pytestmark = pytest.mark.anyio


def names(*sources: str) -> list[str]:
    return imported([{"cell_type": "code", "source": source, "metadata": {}} for source in sources])


def test_imports_at_the_top_level_are_found_once_without_the_standard_library() -> None:
    assert names("import os, tensorflow.keras as k", "from cv2 import x\nimport tensorflow") == ["tensorflow", "cv2"]


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import absent\nexcept ImportError:\n    absent = None",
        "if False:\n    import absent",
        "def f():\n    import absent",
        "from contextlib import suppress\nwith suppress(ImportError):\n    import absent",
        "from . import absent",
        "%%bash\nimport absent",
        "%%javascript\nimport absent from 'x'",
        "import absent (",
        "x = 'import absent'",
    ],
)
def test_imports_that_may_fail_or_are_none_do_not_count(source: str) -> None:
    assert "absent" not in names(source)


@pytest.mark.parametrize(
    "source",
    [
        "%pip install absent",
        "!pip install absent",
        "! python -m pip install absent",
        "import sys; sys.path.insert(0, 'lib')",
        "%%writefile absent.py\nx = 1",
    ],
)
def test_a_notebook_that_brings_its_modules_is_not_judged(source: str) -> None:
    assert names(source, "import absent") == []


def test_lines_of_magic_do_not_hide_imports() -> None:
    assert names("%matplotlib inline\nimport absent\n!ls") == ["absent"]


async def test_the_kernels_interpreter_is_asked(tmp_path: Path) -> None:
    asked = ["anyio", "absent_module_of_the_tests"]
    link = tmp_path / "python3"
    link.symlink_to(sys.executable)
    assert await missing(asked, (sys.executable, "-m", "x"), tmp_path) == asked[1:]
    assert await missing(asked, ("python3",), tmp_path) == asked[1:]
    # Another interpreter, which knows nothing of this environment.
    assert await missing(asked, (str(link), "-m", "x"), tmp_path) in (asked, asked[1:])


@pytest.mark.parametrize("argv", [(), ("/bin/bash",), ("/no/such/python3",)])
async def test_an_interpreter_that_cannot_be_asked_says_nothing(argv: tuple[str, ...], tmp_path: Path) -> None:
    assert await missing(["absent"], argv, tmp_path) == []

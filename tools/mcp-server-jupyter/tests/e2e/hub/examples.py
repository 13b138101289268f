"""nbgrader's own example assignment, out of its package: the source, learners' work, and what it made of that."""

from __future__ import annotations

import json
import subprocess
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGE = "nbgrader==0.9.6"
LEARNERS = ("bitdiddle", "hacker")
_GUIDE = "nbgrader/docs/source/user_guide"


class Examples:
    """Unpacked from the package, which `python` downloads into `folder`."""

    def __init__(self, python: str, folder: Path) -> None:
        command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        subprocess.run([*command, PACKAGE], check=True)
        (self._wheel,) = folder.glob("*.whl")

    def read(self, name: str) -> Any:
        with zipfile.ZipFile(self._wheel) as wheel:
            return json.loads(wheel.read(f"{_GUIDE}/{name}.ipynb"))

    def write(self, folder: Path) -> None:
        """Put the assignments into a folder of tasks."""
        for name, source in (
            ("problem1", "source/ps1/problem1"),
            ("problem2", "source/ps1/problem2"),
            ("autotest", "source/ps1_autotest/problem1"),
        ):
            (folder / f"{name}.ipynb").write_text(json.dumps(self.read(source)))

    def submitted(self, learner: str) -> Any:
        """A learner's notebook of `problem1`."""
        return self.read(f"submitted/{learner}/ps1/problem1")

    @cached_property
    def judged(self) -> dict[str, dict[str, bool]]:
        """By learner, which cells of `problem1` that are tests nbgrader itself let pass."""
        return {learner: _judged(self.read(f"autograded/{learner}/ps1/problem1")) for learner in LEARNERS}


def _judged(notebook: Any) -> dict[str, bool]:
    passed = {}
    for cell in notebook["cells"]:
        said = cell["metadata"].get("nbgrader", {})
        if cell["cell_type"] == "code" and said.get("grade") and not said.get("solution"):
            passed[said["grade_id"]] = all(each["output_type"] != "error" for each in cell["outputs"])
    return passed

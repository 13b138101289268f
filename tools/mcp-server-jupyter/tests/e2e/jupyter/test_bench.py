"""What `python -m bench` tells of a server beside a Jupyter, and of one inside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab import PACKAGE


def test_the_bench_tells_what_a_cell_costs_beside_a_jupyter_and_inside_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "jupyter", "--results", str(tmp_path)]
    ended = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr[-2000:]
    [results] = tmp_path.glob("*.json")
    told = {figure["name"]: figure["value"] for figure in json.loads(results.read_text())["figures"]}
    assert min(told["execute 1+1, beside a Jupyter"], told["execute 1+1, inside a Jupyter"]) > 0

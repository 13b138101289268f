"""The official conformance suite against our real factory and HTTP application, in both protocol eras."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import suite

# The first run installs the suite; one worker has the server under test.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long, pytest.mark.xdist_group("conformance")]

# Optional by definition: protocol extensions that this server does not claim.
EXTENSIONS = "tasks-"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    suite.installed()
    command = [sys.executable, "-W", "ignore", "-m", "conformance.server"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), "the server under test did not start"
        yield address
        server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.parametrize(("revision", "count"), [("2025-11-25", 30), ("2026-07-28", 37)])
def test_every_scenario_a_revision_requires_passes(url: str, tmp_path: Path, revision: str, count: int) -> None:
    scenarios = suite.required(revision)
    assert len(scenarios) == count
    run = suite.run("suite-2026", url, tmp_path, "--requirements", revision)
    assert run.failed(scenarios) == []
    assert run.exit_code == 0, run.text
    not_yet_required = [name for name in run.checks if name not in scenarios and not name.startswith(EXTENSIONS)]
    assert run.failed(not_yet_required) == []


def test_the_whole_suite_of_2025_passes(url: str, tmp_path: Path) -> None:
    run = suite.run("suite-2025", url, tmp_path, "--suite", "all")
    assert run.failed(list(run.checks)) == []
    assert run.exit_code == 0, run.text

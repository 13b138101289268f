"""Without root the gate skips, with a word, what needs it; kind is used where it can be, and deleted afterwards.

Neither another user nor Docker's registry can be had in every place these tests run: `make`, `id`, `docker` and `kind`
are stand-ins that write down how they were called.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from testcluster import e2e
from testcluster.config import SOURCE, Paths
from testcluster.shell import CommandFailed

ROOT = SOURCE.parent.parent


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return directory


def stand_in(programs: Path, name: str, does: str = "exit 0") -> None:
    program = programs / name
    program.write_text(f'#!/bin/sh\necho "{name} $*" >>{programs}/calls\n{does}\n')
    program.chmod(0o755)


def calls(programs: Path) -> list[str]:
    return (programs / "calls").read_text().splitlines()


def gate(programs: Path, user: int, *, kind: bool) -> subprocess.CompletedProcess[str]:
    stand_in(programs, "make")
    stand_in(programs, "id", f"echo {user}")
    stand_in(programs, "kind", "exit 0")
    stand_in(programs, "docker", f"exit {0 if kind else 1}")
    return subprocess.run([ROOT / ".ci" / "run"], capture_output=True, text=True, check=False, timeout=60)


def test_without_root_and_without_kind_the_clusters_stages_are_skipped_with_a_word(programs: Path) -> None:
    done = gate(programs, 1000, kind=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = [call for call in calls(programs) if call.startswith("make")]
    assert "make check" in made
    assert not {"make cluster-down", "make cluster-prepare", "make e2e-cluster"} & set(made)
    rows = [line.split(maxsplit=3) for line in done.stdout.splitlines() if "skipped" in line and "make" in line]
    assert {row[1] for row in rows} >= {"cluster-down", "e2e-cluster"}
    assert "skipped: needs root" in done.stdout


def test_without_root_the_cluster_tests_run_on_kind(programs: Path) -> None:
    done = gate(programs, 1000, kind=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "make e2e-cluster" in calls(programs)
    assert "make cluster-down" not in calls(programs)


def test_with_root_every_stage_runs(programs: Path) -> None:
    done = gate(programs, 0, kind=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"make cluster-down", "make cluster-prepare", "make e2e-cluster", "make cluster-selftest"} <= set(
        calls(programs)
    )
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(("there", "deleted"), [("", True), ("mcp-server-jupyter", False)])
def test_a_kind_cluster_made_for_the_tests_is_deleted_even_if_they_fail(
    programs: Path, tmp_path: Path, there: str, deleted: bool
) -> None:
    stand_in(programs, "kind", f'test "$1 $2" != "get clusters" || echo "{there}"')
    with pytest.raises(RuntimeError), e2e._kind(Paths(tmp_path / "cache", tmp_path / "home")):
        raise RuntimeError
    did = [call.split()[1] for call in calls(programs)]
    assert did == (["get", "create", "delete"] if deleted else ["get", "export"])


def test_a_kind_cluster_that_cannot_be_made_is_cleared_away(programs: Path, tmp_path: Path) -> None:
    stand_in(programs, "kind", 'test "$1" != create')
    with (
        pytest.raises(CommandFailed, match="kind create"),
        e2e._kind(Paths(tmp_path / "cache", tmp_path / "home")),
    ):
        pass
    assert [call.split()[1] for call in calls(programs)] == ["get", "create", "delete"]

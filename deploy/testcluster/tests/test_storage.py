"""Volumes: of their own size, of mode 0755, of one node unless the class says otherwise."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from testcluster import provisioner
from testcluster.config import memory_limit, quantity
from testcluster.shell import Refusal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def claim(*modes: str, storage_class: str = "standard", size: str = "8Mi", **spec: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "notebooks", "namespace": "a", "uid": "1234"},
        "spec": {
            "accessModes": list(modes),
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


@needs_root
def test_a_volume_is_of_mode_0755_empty_and_no_larger_than_asked(tmp_path: Path) -> None:
    volume = tmp_path / "pvc-1"
    provisioner.make(volume, 8 << 20)
    try:
        provisioner.make(volume, 8 << 20)  # a provisioner that was killed half way does it again
        assert (stat.S_IMODE(volume.stat().st_mode), volume.stat().st_uid, list(volume.iterdir())) == (0o755, 0, [])
        (volume / "kept").write_text("kept")
        with pytest.raises(OSError, match="No space left"):
            (volume / "large").write_bytes(bytes(9 << 20))
        provisioner.make(volume, 8 << 20)
        assert (volume / "kept").read_text() == "kept"
    finally:
        provisioner.remove(volume)
    assert list(tmp_path.iterdir()) == []
    provisioner.remove(volume)


def test_a_claim_of_many_nodes_is_refused_unless_its_class_is_shared() -> None:
    assert provisioner.refusal(claim("ReadWriteOnce")) == ""
    assert provisioner.refusal(claim("ReadWriteOncePod")) == ""
    assert provisioner.refusal(claim("ReadWriteMany", storage_class="shared")) == ""
    told = provisioner.refusal(claim("ReadWriteOnce", "ReadWriteMany"))
    assert told == "class standard makes volumes of one node, not ReadWriteMany: ask for shared"


def test_a_claim_that_cannot_be_served_is_told_why() -> None:
    assert provisioner.refusal(claim("ReadWriteOnce", volumeMode="Block")) == "there are no block volumes here"
    assert "'1e9' is not an amount" in provisioner.refusal(claim("ReadWriteOnce", size="1e9"))


@pytest.mark.parametrize(("text", "amount"), [("100Mi", 100 << 20), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9), ("7", 7)])
def test_amounts_are_read_as_kubernetes_writes_them(text: str, amount: int) -> None:
    assert quantity(text) == amount


def test_the_nodes_memory_is_taken_from_its_variable_or_refused_by_name() -> None:
    assert memory_limit({}) is None
    assert memory_limit({"TESTCLUSTER_MEMORY": "4Gi"}) == 4 << 30
    for given in ("much", "-4Gi", "512Mi"):
        with pytest.raises(Refusal, match="TESTCLUSTER_MEMORY"):
            memory_limit({"TESTCLUSTER_MEMORY": given})

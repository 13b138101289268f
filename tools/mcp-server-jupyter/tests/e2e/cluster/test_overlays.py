"""The manifests as kustomize renders them, shown to a real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from control import Control
from kube import made_namespace
from product import RESTRICTED_LABELS, render

WARN = {"pod-security.kubernetes.io/warn": "restricted"}


@pytest.mark.parametrize("overlay", ["kind", "example", "second", "telepresence-dev"])
def test_the_api_server_admits_an_overlay_and_warns_of_nothing(control: Control, overlay: str, tmp_path: Path) -> None:
    with made_namespace(**RESTRICTED_LABELS, **WARN) as namespace:
        rendered = render(control, tmp_path, namespace.name, f"overlays/{overlay}")
        (tmp_path / "rendered.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": rendered}))
        file = f"--filename={tmp_path / 'rendered.json'}"
        said = control.kubectl("create", "--dry-run=server", "--warnings-as-errors", file)
    assert len(said.splitlines()) == len(rendered)

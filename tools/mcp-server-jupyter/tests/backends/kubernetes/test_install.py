"""`kernels install PROFILE`: a kernelspec that other Jupyter applications find and start."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from mcp_server_jupyter.backends.kubernetes.provisioner import PodProvisioner
from mcp_server_jupyter.cli import commands
from mcp_server_jupyter.errors import NotFound


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / "profiles.yaml").write_text("gpu: {display_name: With a GPU, image: torch}\n")


def install(tmp_path: Path, *arguments: str) -> str:
    given = [f"--kernel-profiles={tmp_path}/profiles.yaml", "--namespace=lab", *arguments]
    done = CliRunner().invoke(commands, ["kernels", "install", *given], catch_exceptions=False)
    return done.output.strip()


def test_the_kernelspec_of_a_profile_is_found_and_its_provisioner_made(tmp_path: Path) -> None:
    folder = install(tmp_path, "gpu", "--kernel-access=port-forward")
    spec = KernelSpecManager().get_kernel_spec("pod-gpu")
    provisioner = KernelProvisionerFactory.instance().create_provisioner_instance("id", spec, parent=None)

    assert folder == str(tmp_path / "data" / "kernels" / "pod-gpu")
    assert (spec.display_name, spec.language) == ("With a GPU", "python")
    assert isinstance(provisioner, PodProvisioner)
    assert provisioner.profile == "gpu"
    given = {"namespace": "lab", "kernel_profiles": str(tmp_path / "profiles.yaml"), "kernel_access": "port-forward"}
    assert provisioner.settings == given


def test_a_profile_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="python3, gpu"):
        install(tmp_path, "cpu")

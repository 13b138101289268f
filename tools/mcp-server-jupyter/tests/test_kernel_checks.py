"""The doctor starts each kernelspec and says which cannot be used; environments it only reads of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from environments import lean_environment
from local_kernels import kernelspec
from mcp_server_jupyter.backends.local import open_kernels
from mcp_server_jupyter.commands.kernel_checks import check_interpreters, check_kernelspecs
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "JUPYTER_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    (tmp_path / "root").mkdir()
    return Settings.load({"root": tmp_path / "root", "state_dir": tmp_path / "state"}, {})


async def test_kernelspecs_that_start_and_those_that_run_another_python_are_told(
    settings: Settings, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "bin" / "python3"
    other.parent.mkdir(parents=True)
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    jupyter = tmp_path / "jupyter"
    kernelspec(jupyter, "fine", [sys.executable, *IPYKERNEL])
    kernelspec(jupyter, "moved", [str(other), *IPYKERNEL])
    kernelspec(jupyter, "old", [sys.executable, *IPYKERNEL], display_name="Python 3.1 (old)")
    kernelspec(jupyter, "ends", [sys.executable, "-c", "raise SystemExit('no kernel here')", "{connection_file}"])
    async with open_kernels(settings) as kernels:
        specs = [spec for spec in await kernels.specs() if spec.name in ("fine", "moved", "old", "ends")]
        findings = await check_kernelspecs(kernels, specs, seconds=100)
        told = dict(zip([spec.name for spec in specs], findings, strict=True))
        assert told["fine"].fine
        assert "starts in" in told["fine"].text
        assert told["moved"].text == f"Kernelspec moved runs {sys.executable}, not {other}"
        assert "is called 'Python 3.1 (old)' and runs Python 3." in told["old"].text
        assert "ends does not start" in told["ends"].text
        assert [each.fine for each in findings].count(False) == 3


async def test_a_silent_kernelspec_is_given_up_and_nothing_of_it_is_left(settings: Settings, tmp_path: Path) -> None:
    kernelspec(tmp_path / "jupyter", "silent", ["/bin/sleep", "1000"])
    async with open_kernels(settings) as kernels:
        spec = next(spec for spec in await kernels.specs() if spec.name == "silent")
        (finding,) = await check_kernelspecs(kernels, [spec], seconds=0.5)
        assert str(finding).startswith("FAIL  Kernelspec silent has not answered in 0.5 s\n")
        assert "/bin/sleep 1000" in finding.advice
        assert not await kernels.adopt()
        assert not list((settings.root_state / "kernels").iterdir())


async def test_the_doctor_says_which_python_is_chosen_and_what_environments_lack(settings: Settings) -> None:
    lean_environment(settings.root / ".venv", "ipykernel")
    lean_environment(settings.root / "a" / ".venv")
    lean_environment(settings.root / "b" / ".venv", home="/no/such/bin")
    async with open_services(settings) as services:
        first, *others = map(str, await check_interpreters(services))
    assert first == (
        "ok    A notebook at the top of the root would run on Python 3.12.1 at .venv: "
        "the nearest environment with ipykernel"
    )
    assert any("a/.venv (venv) runs no kernel yet: it has no ipykernel\n" in each for each in others)
    assert any("b/.venv (venv) cannot be used: its base Python /no/such/bin is gone\n" in each for each in others)

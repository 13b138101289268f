"""Notebooks run on the right Python, and whoever starts a kernel hears which that is and why."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import nbformat
import pytest

from environments import lean_environment, real_environment, site_of
from local_kernels import kernelspec
from mcp_server_jupyter.errors import AlreadyExists, InvalidRequest, NotFound, Unsupported
from mcp_server_jupyter.operations import Answer, Caller
from mcp_server_jupyter.operations.bind import invoke
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

PREFIX = "import sys; print(sys.prefix)"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of a user who has nothing registered, active or cached."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "JUPYTER_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "root"
    folder.mkdir()
    return folder.resolve()


class Desk:
    """A server's services and one who calls them."""

    def __init__(self, services: Services, environ: dict[str, str] | None = None) -> None:
        self.services = services
        self.caller = Caller("tester", environment=environ)

    async def __call__(self, operation: str, /, **arguments: Any) -> Answer:
        with anyio.fail_after(60):
            return await invoke(self.services, operation, arguments, caller=self.caller)


@asynccontextmanager
async def desk(root: Path, **more: Any) -> AsyncIterator[Desk]:
    settings = Settings.load({"root": root, "state_dir": root.parent / "state", **more}, {})
    async with open_services(settings) as services:
        yield Desk(services)


def written(path: Path, source: str = PREFIX, **metadata: Any) -> Path:
    """A notebook of one cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def names(name: str, language: str = "python") -> dict[str, Any]:
    return {"kernelspec": {"name": name, "display_name": name, "language": language}}


async def test_a_notebook_runs_on_its_projects_environment_and_that_is_said_once(root: Path) -> None:
    environment = real_environment(root / "project" / ".venv")
    written(root / "project" / "deep" / "a.ipynb", **names("python3"))
    path = "project/deep/a.ipynb"
    async with desk(root) as call:
        before = await call("get_notebook_info", notebook_path=path)
        assert "would run on Python 3." in before.text
        assert "project/.venv: the nearest environment with ipykernel" in before.text
        first = await call("execute_cell_with_progress", notebook_path=path, cell_index=0)
        assert str(environment) in first.text.splitlines()
        assert first.text.splitlines()[1].startswith("! Its kernel runs on Python 3.")
        second = await call("execute_cell_with_progress", notebook_path=path, cell_index=0)
        assert "Its kernel runs on" not in second.text
        after = await call("get_notebook_info", notebook_path=path)
        assert "; runs on Python 3." in after.text.splitlines()[1]
        await call("restart_kernel", notebook_path=path)
        again = await call("execute_cell_with_progress", notebook_path=path, cell_index=0)
        assert str(environment) in again.text.splitlines()
        environ = await call("execute_code", notebook_path=path, code="import os; print(os.environ['VIRTUAL_ENV'])")
        assert str(environment) in environ.text.splitlines()


async def test_the_active_environment_is_that_of_the_client_that_starts_the_kernel(root: Path) -> None:
    active = real_environment(root.parent / "active")
    async with desk(root) as call:
        call.caller = Caller("tester", environment={**os.environ, "VIRTUAL_ENV": str(active)})
        started = await call("start_kernel")
        assert f"at {active}: the active environment (VIRTUAL_ENV)" in started.text
        ran = await call("execute_code", kernel_id=started.data["kernel_id"], code=PREFIX)
        assert str(active) in ran.text.splitlines()
        other = Desk(call.services)
        assert "the server's own" in (await other("start_kernel")).text


async def test_the_setting_python_wins_over_environments_but_not_over_a_registered_name(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    kernelspec(root.parent / "jupyter", "mine", [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    for name in ("python3", "mine", "elsewhere"):
        written(root / f"{name}.ipynb", **names(name))
    async with desk(root, python=sys.executable) as call:
        told = {name: (await call("get_notebook_info", notebook_path=name)).data["runs_on"] for name in _names(root)}
    assert told["python3.ipynb"] == told["elsewhere.ipynb"] == f"would run on {sys.executable}: set by --python"
    assert told["mine.ipynb"].startswith("would run on kernelspec mine")


def _names(root: Path) -> list[str]:
    return [path.name for path in root.glob("*.ipynb")]


@pytest.mark.parametrize(
    "metadata",
    [
        names("python2"),
        {**names("py27"), "language_info": {"name": "python", "version": "2.7.18"}},
        {"kernelspec": {"name": "python2.7", "display_name": "P"}},
    ],
)
@pytest.mark.parametrize("kernels", ["local", "memory"])
async def test_a_notebook_of_python_2_does_not_run_on_python_3_unasked(
    root: Path, metadata: dict[str, Any], kernels: str
) -> None:
    lean_environment(root / ".venv", "ipykernel")
    written(root / "a.ipynb", **metadata)
    async with desk(root, kernels=kernels) as call:
        with pytest.raises(Unsupported, match=r"written for Python 2.*start_kernel"):
            await call("execute_cell_with_progress", notebook_path="a.ipynb", cell_index=0)
        assert "written for Python 2" in ((await call("get_notebook_info", notebook_path="a.ipynb")).data["runs_on"])
        assert not call.services.sessions.all()
        await call("start_kernel", kernel_name="python3", notebook_path="a.ipynb")
        ran = await call("execute_cell_with_progress", notebook_path="a.ipynb", cell_index=0)
        assert ran.data["status"] == "ok"


async def test_a_kernelspec_of_another_language_has_no_stand_in(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    written(root / "a.ipynb", **names("ir", "R"))
    async with desk(root) as call:
        with pytest.raises(NotFound, match=r"'ir', which is not installed.*There are: .*python3"):
            await call("execute_cell_with_progress", notebook_path="a.ipynb", cell_index=0)


async def test_a_missing_module_is_answered_with_the_environment_that_has_it_and_the_calls_that_switch(
    root: Path,
) -> None:
    environment = real_environment(root / "other" / "env")
    (site_of(environment) / "rare_module.py").write_text("value = 42")
    written(root / "a.ipynb", "import rare_module; print(rare_module.value)")
    async with desk(root) as call:
        for operation, arguments in (("execute_cell_with_progress", {"cell_index": 0}), ("run_all_cells", {})):
            failed = await call(operation, notebook_path="a.ipynb", **arguments)
            assert "rare_module is in other/env/bin/python (Python 3." in failed.text
        told = failed.text.splitlines()[-1]
        assert 'shutdown_kernel(notebook_path="a.ipynb"), then start_kernel(python="other/env/bin/python", ' in told
        await call("shutdown_kernel", notebook_path="a.ipynb")
        await call("start_kernel", python="other/env/bin/python", notebook_path="a.ipynb")
        ran = await call("execute_cell_with_progress", notebook_path="a.ipynb", cell_index=0)
        assert "42" in ran.text.splitlines()
        nowhere = await call("execute_code", notebook_path="a.ipynb", code="import is_nowhere_at_all")
        assert "is in" not in nowhere.text


async def test_a_missing_module_of_an_environment_without_ipykernel_is_told_too(root: Path) -> None:
    lean_environment(root / "other" / "env", "rare_module")
    async with desk(root, notebook="a.ipynb") as call:
        failed = await call("execute_code", code="import rare_module")
        assert failed.text.splitlines()[-1].startswith(f"rare_module is in {root}/other/env, which has no ipykernel")


async def test_environments_without_ipykernel_are_listed_with_the_commands_that_add_it(root: Path) -> None:
    lean_environment(root / ".venv", "ipykernel")
    lean_environment(root / "a" / "env")
    lean_environment(root / "b" / ".venv", home="/no/such/bin")
    async with desk(root) as call:
        listed = await call("list_kernels")
    assert "  .venv/bin/python: Python (.venv) (python)" in listed.text
    python = root / "a" / "env" / "bin" / "python"
    ways = f"{python} -m pip install ipykernel, or: uv pip install --python {python.parent.parent} ipykernel"
    assert f"  {root}/a/env (venv, Python 3.12.1) needs ipykernel: {ways}" in listed.text
    assert f"  {root}/b/.venv (venv, Python 3.12.1) cannot be used: its base Python /no/such/bin is gone" in listed.text
    problems = {each["name"]: each["problem"] for each in listed.data["environments"]}
    assert problems[".venv/bin/python"] == ""
    assert problems["b/.venv/bin/python"] == "its base Python /no/such/bin is gone"


async def test_a_notebook_made_for_an_environment_says_python3_and_runs_there(root: Path) -> None:
    real_environment(root / ".venv")
    lean_environment(root / "other" / "env", "ipykernel")
    async with desk(root) as call:
        near = await call("create_notebook", notebook_path="near.ipynb", kernel_name=".venv")
        assert "It runs on Python 3." in near.text
        far = await call("create_notebook", notebook_path="far.ipynb", kernel_name="other/env/bin/python")
        assert 'start_kernel(python="other/env/bin/python", notebook_path="far.ipynb") runs them on' in far.text
        with pytest.raises(InvalidRequest, match="nowhere"):
            await call("create_notebook", notebook_path="none.ipynb", kernel_name="nowhere/env")
        ran = await call("append_execute_code_cell", notebook_path="near.ipynb", cell_source=PREFIX)
        assert str(root / ".venv") in ran.text.splitlines()
    for name, folder in (("near", ".venv"), ("far", "env")):
        metadata = json.loads((root / f"{name}.ipynb").read_text())["metadata"]
        spec = {"name": "python3", "display_name": f"Python ({folder})", "language": "python"}
        assert metadata["kernelspec"] == spec


async def test_a_notebook_made_for_an_environment_is_run_by_other_programs(root: Path) -> None:
    import nbclient

    lean_environment(root / ".venv", "ipykernel")
    async with desk(root) as call:
        await call("create_notebook", notebook_path="a.ipynb", kernel_name=".venv/bin/python")
        await call("insert_cell", notebook_path="a.ipynb", cell_index=-1, cell_source="6 * 7", cell_type="code")
    notebook = nbformat.read(root / "a.ipynb", as_version=4)
    await nbclient.NotebookClient(notebook, timeout=60).async_execute()
    assert notebook.cells[0].outputs[0].data["text/plain"] == "42"


async def test_a_kernel_started_for_a_notebook_works_in_its_folder_unless_told_otherwise(root: Path) -> None:
    (root / "sub").mkdir()
    for name in ("a", "b"):
        written(root / "sub" / f"{name}.ipynb", "1")
    async with desk(root, kernels="memory") as call:
        for path, given, folder in (("sub/a.ipynb", {}, "sub"), ("sub/b.ipynb", {"cwd": "."}, "")):
            answer = await call("start_kernel", notebook_path=path, **given)
            kernel = call.services.sessions.get(answer.data["kernel_id"]).kernel
            assert kernel.cwd in (folder, folder or ".")


async def test_a_running_kernel_is_attached_to_a_notebook(root: Path) -> None:
    for name in ("a", "b", "c"):
        written(root / f"{name}.ipynb", "x = 6 * 7" if name == "a" else "print(x)")
    async with desk(root, kernels="memory") as call:
        await call("execute_cell_with_progress", notebook_path="a.ipynb", cell_index=0)
        session = call.services.sessions.find("a.ipynb")
        assert session is not None
        answer = await call("start_kernel", notebook_path="b.ipynb", kernel_id=session.id)
        assert f"b.ipynb runs on kernel {session.id}" in answer.text
        assert "as a.ipynb does" in answer.text
        ran = await call("execute_cell_with_progress", notebook_path="b.ipynb", cell_index=0)
        assert "42" in ran.text.splitlines()
        again = await call("start_kernel", notebook_path="b.ipynb", kernel_id=session.id)
        assert again.data["kernel_id"] == session.id
        await call("execute_code", notebook_path="c.ipynb", code="1")
        with pytest.raises(AlreadyExists):
            await call("start_kernel", notebook_path="c.ipynb", kernel_id=session.id)
        for wrong in ({"python": "x"}, {"kernel_name": "x"}, {"cwd": "x"}):
            with pytest.raises(InvalidRequest):
                await call("start_kernel", notebook_path="b.ipynb", kernel_id=session.id, **wrong)
        with pytest.raises(InvalidRequest):
            await call("start_kernel", kernel_id=session.id)
        with pytest.raises(NotFound):
            await call("start_kernel", notebook_path="b.ipynb", kernel_id="nobody")

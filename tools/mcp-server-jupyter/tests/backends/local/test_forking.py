"""Kernels that are forked: as those that are spawned, and safe from their fork server."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from forked_kernels import (
    SELF,
    ForkedKernels,
    descriptors,
    fork_servers,
    is_forked,
    line_of,
    ready_line,
    server_of,
    told,
)
from local_kernels import content, ignored, is_gone, kernelspec, printed, processes, run, until
from mcp_server_jupyter.backends.local import LocalKernels, open_kernels
from mcp_server_jupyter.backends.local.forking import client, forks
from mcp_server_jupyter.backends.local.forking.doctor import examine, often_imported
from mcp_server_jupyter.backends.local.forking.fitness import is_possible_here, why_spawned
from mcp_server_jupyter.backends.local.kernelspecs import Recipe
from mcp_server_jupyter.folders import runtime_folder
from mcp_server_jupyter.ports import Death, Kernelspec
from mcp_server_jupyter.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not is_possible_here(), reason="nothing is forked here")]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return dataclasses.replace(settings, fork_kernels=True)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a fork server that works is waited for."""
    monkeypatch.setattr(client, "FORK_SECONDS", 60.0)


@pytest.fixture
async def forked(settings: Settings) -> AsyncIterator[ForkedKernels]:
    async with ForkedKernels(settings) as opened:
        yield opened
    assert fork_servers() == []


# --------------------------------------------------------------------------- they are as if spawned


async def test_a_forked_kernel_is_what_a_spawned_one_is(settings: Settings) -> None:
    (settings.root / "below").mkdir()
    with ignored(signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        async with open_kernels(settings) as kernels:
            spawned = await kernels.start("python3", cwd="below")
            await ready_line(kernels)
            forked = await kernels.start("python3", cwd="below")
            assert (is_forked(spawned), is_forked(forked)) == (False, True)
            expected, found = await told(spawned, SELF), await told(forked, SELF)
    unlike = {what: (found[what], expected[what]) for what in found if found[what] != expected[what]}
    assert unlike == {}
    assert found["parent"]
    assert found["leads"] == [True, True]


async def test_a_forked_kernel_holds_nothing_of_its_fork_server_nor_do_the_next_ones(forked: ForkedKernels) -> None:
    kernels = [await forked.start("python3") for _ in range(3)]
    server = server_of(line_of(forked)).pid
    [control] = [each for each in descriptors(server) if each.startswith("socket:")]
    assert len(descriptors(server)) == 1
    for kernel in kernels:
        assert is_forked(kernel)
        assert kernel._process is not None
        assert control not in [*descriptors(kernel._process.recorder), *descriptors(kernel._process.pid or 0)]


async def test_kernels_and_recorders_show_what_they_are(forked: ForkedKernels) -> None:
    kernel = await forked.start("python3")
    assert kernel._process is not None
    shown = [psutil.Process(pid).cmdline() for pid in (kernel._process.recorder, kernel._process.pid or 0)]
    connection = str(kernel.folder / "connection.json")
    assert (shown[0][0], str(kernel.folder) in shown[0]) == (sys.executable, True)
    assert shown[1][:5] == [sys.executable, "-m", "ipykernel_launcher", "-f", connection]


SEEDS = """
import json, random, tempfile, uuid
import numpy
from multiprocessing import current_process
names = [next(tempfile._get_candidate_names()), str(uuid.uuid4()), bytes(current_process().authkey).hex()]
print(json.dumps([random.random(), numpy.random.rand(), numpy.random.default_rng().random(), *names]))
"""


async def test_what_is_random_differs_between_forked_kernels(settings: Settings) -> None:
    preload = ("random", "tempfile", "uuid", "numpy", "multiprocessing")
    async with ForkedKernels(dataclasses.replace(settings, preload=preload)) as kernels:
        assert line_of(kernels).refused == {}
        drawn = [await told(await kernels.start("python3"), SEEDS) for _ in range(3)]
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 3, values


@pytest.mark.parametrize(
    ("code", "death"),
    [
        ("import os; os._exit(7)", Death(7, "exit code 7")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Death(-9, "SIGKILL")),
        ("import ctypes; ctypes.string_at(0)", Death(-11, "SIGSEGV")),
    ],
)
async def test_how_a_forked_kernel_ended_is_known(forked: ForkedKernels, code: str, death: Death) -> None:
    kernel = await forked.start("python3")
    with anyio.fail_after(60):
        kernel.request("execute_request", content(code))
        assert await kernel.wait_dead() == death
        await kernel.restart()
    assert is_forked(kernel)
    assert printed(await run(kernel, "print('again')")) == "again\n"


async def test_what_a_forked_kernel_is_to_do_at_its_end_is_done(forked: ForkedKernels, settings: Settings) -> None:
    kernel = await forked.start("python3")
    await run(kernel, "import atexit; _ = atexit.register(lambda: open('ended', 'w').close())")
    with anyio.fail_after(60):
        await kernel.shutdown()
    assert (settings.root / "ended").exists()


async def test_a_forked_kernel_ends_with_its_recorder(forked: ForkedKernels) -> None:
    kernel = await forked.start("python3")
    process = kernel._process
    assert process is not None
    os.kill(process.recorder, signal.SIGKILL)
    with anyio.fail_after(60):
        assert (await kernel.wait_dead()).reason == "its recorder was killed"
    await until(lambda: is_gone(process.pid or 0))


PROCESSES = """
import concurrent.futures, json, multiprocessing, os, subprocess, sys
def _pool(method):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(os.getpid).result(60) != os.getpid()
print(json.dumps([
    [_pool(method) for method in ("fork", "spawn", "forkserver")],
    subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True).stdout,
    os.system("exit 3") >> 8,
]))
"""


async def test_a_forked_kernel_starts_processes_of_every_kind(settings: Settings) -> None:
    async with ForkedKernels(
        dataclasses.replace(settings, preload=("multiprocessing", "concurrent.futures"))
    ) as kernels:
        assert await told(await kernels.start("python3"), PROCESSES) == [[True, True, True], "42\n", 3]


async def test_a_module_that_is_edited_is_loaded_anew_by_autoreload(forked: ForkedKernels, settings: Settings) -> None:
    (settings.root / "mine.py").write_text("def value():\n    return 1\n")
    kernel = await forked.start("python3")
    await run(kernel, "%load_ext autoreload\n%autoreload 2\nimport mine")
    assert printed(await run(kernel, "print(mine.value())")) == "1\n"
    (settings.root / "mine.py").write_text("def value():\n    return 'two'\n")
    os.utime(settings.root / "mine.py", (2e9, 2e9))
    assert printed(await run(kernel, "print(mine.value())")) == "two\n"


# --------------------------------------------------------------------------- fork servers that fail


async def test_kernels_outlive_their_fork_server_and_the_next_are_forked_again(
    forked: ForkedKernels, caplog: pytest.LogCaptureFixture
) -> None:
    first = await forked.start("python3")
    await run(first, "x = 1")
    server = server_of(line_of(forked))
    os.kill(server.pid, signal.SIGKILL)
    with anyio.fail_after(60):
        await server.ended.wait()
    second = await forked.start("python3")
    await ready_line(forked)
    third = await forked.start("python3")
    assert [is_forked(kernel) for kernel in (first, second, third)] == [True, False, True]
    assert [printed(await run(kernel, "x = 1; print(x)")) for kernel in (first, second, third)] == ["1\n"] * 3
    assert [each.message for each in caplog.records if "fork server failed" in each.message] == [
        "a fork server failed, and the kernel was spawned instead: it ended"
    ]
    with anyio.fail_after(60):
        await first.restart()
    assert is_forked(first)


async def test_a_fork_server_that_hangs_is_ended_and_the_kernel_spawned(
    forked: ForkedKernels, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FORK_SECONDS", 0.2)
    server = server_of(line_of(forked))
    os.kill(server.pid, signal.SIGSTOP)
    with anyio.fail_after(60):
        kernel = await forked.start("python3")
        await server.ended.wait()
    assert not is_forked(kernel)
    await until(lambda: len(processes(settings)) == 2)


async def test_a_fork_that_comes_too_late_begins_nothing(forked: ForkedKernels, settings: Settings) -> None:
    server = server_of(line_of(forked))
    os.kill(server.pid, signal.SIGSTOP)
    with anyio.move_on_after(0.1) as scope:
        await forked.start("python3")
    assert scope.cancelled_caught
    os.kill(server.pid, signal.SIGCONT)
    kernel = await forked.start("python3")
    assert is_forked(kernel)
    # The one that came too late may be ending still.
    await until(lambda: len(processes(settings)) == 2)


async def test_a_kernel_that_dies_when_it_is_forked_is_spawned(
    forked: ForkedKernels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = line_of(forked)
    fork = line.fork

    async def then_killed(folder: Path, cwd: Path) -> Any:
        found = await fork(folder, cwd)
        if found is not None:
            os.kill(found.recorder, signal.SIGKILL)
        return found

    monkeypatch.setattr(line, "fork", then_killed)
    kernel = await forked.start("python3")
    assert not is_forked(kernel)
    assert printed(await run(kernel, "print(1)")) == "1\n"
    assert "a kernel that was forked did not come up" in caplog.text


async def test_after_three_failures_in_a_row_kernels_are_spawned(forked: ForkedKernels) -> None:
    line = line_of(forked)
    for _ in range(3):
        line.blame()
    assert not is_forked(await forked.start("python3"))


async def test_a_fork_server_ends_with_a_server_that_is_killed_and_its_kernels_are_adopted(settings: Settings) -> None:
    program = f"""
        import anyio, os, signal
        from forked_kernels import ForkedKernels, is_forked, line_of, server_of
        from mcp_server_jupyter.settings import Settings
        async def main():
            settings = Settings.load({{"root": {str(settings.root)!r}, "state_dir": {str(settings.state_dir)!r}}}, {{}})
            async with ForkedKernels(settings) as kernels:
                kernel = await kernels.start("python3")
                assert is_forked(kernel)
                async for _ in kernel.request("execute_request", {{"code": "x = 5", "silent": False}}):
                    pass
                print(server_of(line_of(kernels)).pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        anyio.run(main)
    """
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = await anyio.run_process(
        [sys.executable, "-c", textwrap.dedent(program)], check=False, stderr=subprocess.STDOUT, env=environ
    )
    assert ended.returncode == -signal.SIGKILL, ended.stdout.decode()
    await until(lambda: is_gone(int(ended.stdout)))
    async with open_kernels(settings) as kernels:
        [kernel] = await kernels.adopt()
        assert printed(await run(kernel, "print(x)")) == "5\n"
    await until(lambda: processes(settings) == [])


# --------------------------------------------------------------------------- when there is one


async def test_the_first_kernel_is_spawned_and_brings_a_fork_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_PAUSE_SECONDS", 0)
    async with open_kernels(settings) as kernels:
        assert not is_forked(await kernels.start("python3"))
        line = line_of(kernels)
        await until(lambda: line.server is not None and line.server.ready.done())
        assert is_forked(await kernels.start("python3"))
        assert fork_servers() == [server_of(line).pid]
    assert fork_servers() == []


async def test_there_is_none_where_forking_is_switched_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_PAUSE_SECONDS", 0)
    async with open_kernels(dataclasses.replace(settings, fork_kernels=False)) as kernels:
        for _ in range(2):
            assert not is_forked(await kernels.start("python3"))
        assert fork_servers() == []


async def test_one_that_is_not_used_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ForkedKernels(settings) as kernels:
        line = line_of(kernels)
        monkeypatch.setattr(forks, "_IDLE_SECONDS", 0.1)
        await kernels.start("python3")
        await until(lambda: fork_servers() == [])
        assert line.server is None
        monkeypatch.setattr(forks, "_IDLE_SECONDS", 600)
        await ready_line(kernels)
        assert is_forked(await kernels.start("python3"))


async def test_another_environment_has_a_fork_server_of_its_own(forked: ForkedKernels) -> None:
    env = {**os.environ, "MINE": "1"}
    first = await forked.start("python3", env=env)
    assert not is_forked(first)
    line = line_of(forked, env)
    line.launch()
    with anyio.fail_after(60):
        assert await server_of(line).is_ready_by(float("inf"))
    second = await forked.start("python3", env=env)
    assert is_forked(second)
    assert printed(await run(second, "import os; print(os.environ['MINE'])")) == "1\n"
    assert len(fork_servers()) == 2


async def test_packages_that_change_bring_a_new_fork_server(forked: ForkedKernels, tmp_path: Path) -> None:
    old = server_of(line_of(forked))
    changed = tmp_path / "packages"
    changed.mkdir()
    old._stamps[str(changed)] = changed.stat().st_mtime_ns
    assert is_forked(await forked.start("python3"))
    (changed / "new.py").write_text("")
    os.utime(changed, ns=(1, 1))
    await forked.start("python3")
    assert server_of(line_of(forked)) is not old
    with anyio.fail_after(60):
        await old.ended.wait()
    await ready_line(forked)
    assert is_forked(await forked.start("python3"))


# --------------------------------------------------------------------------- what is preloaded


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


async def test_a_module_that_is_preloaded_is_there_at_once(settings: Settings, modules: Path) -> None:
    (modules / "heavy.py").write_text("import os\nat = os.getpid()\n")
    async with ForkedKernels(dataclasses.replace(settings, preload=("heavy",))) as kernels:
        at = [await told(await kernels.start("python3"), "import heavy; print(heavy.at)") for _ in range(2)]
        assert at == [server_of(line_of(kernels)).pid] * 2
        (modules / "heavy.py").write_text("at = 'edited'\n")
        await kernels.start("python3")
        await ready_line(kernels)
        assert await told(await kernels.start("python3"), "import json, heavy; print(json.dumps(heavy.at))") == "edited"


async def test_a_log_that_a_preloaded_module_keeps_is_the_notebooks(settings: Settings, modules: Path) -> None:
    (modules / "logs.py").write_text("import logging, sys\nhandler = logging.StreamHandler(sys.stdout)\n")
    async with ForkedKernels(dataclasses.replace(settings, preload=("logs",))) as kernels:
        assert line_of(kernels).refused == {}
        kernel = await kernels.start("python3")
        code = "import logging, logs; logging.root.addHandler(logs.handler); logging.warning('hot')"
        assert printed(await run(kernel, code)) == "hot\n"


REFUSED = {
    "a thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "it starts a thread",
    ),
    "a file": ("kept = open('/dev/zero')", "it opens /dev/zero"),
    "a process": ("import subprocess\nkept = subprocess.Popen(['true'])", "it starts a process"),
    "a word": ("print('hello')", "it prints or warns while it is imported"),
    "a warning": ("import warnings\nwarnings.warn('old')", "it prints or warns while it is imported"),
    "the shell": ("import IPython\nIPython.get_ipython()", "it asks for the notebook's shell while it is imported"),
    "an error": ("1 / 0", "its import fails (ZeroDivisionError: division by zero)"),
    "an exit": ("import sys\nsys.exit(1)", "its import ends the process"),
    "a crash": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "its import ends the process"),
    "an end": ("import os\nos._exit(0)", "its import ends the process"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_module_that_forks_would_share_or_lose_something_of_is_refused_by_name(
    settings: Settings, modules: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, why = REFUSED[what]
    (modules / "bad.py").write_text(source + "\n")
    (modules / "good.py").write_text("import os\nat = os.getpid()\n")
    async with ForkedKernels(dataclasses.replace(settings, preload=("bad", "good"))) as kernels:
        line = line_of(kernels)
        assert line.refused == {"bad": why}
        kernel = await kernels.start("python3")
        assert is_forked(kernel)
        assert await told(kernel, "import good; print(good.at)") == server_of(line).pid
    said = [each.message for each in caplog.records if "preloaded" in each.message]
    assert said == [f"bad cannot be preloaded: {why}"]


async def test_kernels_start_while_a_module_hangs_and_it_is_refused_in_the_end(
    settings: Settings, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "slow.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(forks, "WAIT_SECONDS", 0.2)
    async with open_kernels(dataclasses.replace(settings, preload=("slow",))) as kernels:
        with anyio.fail_after(60):
            assert [is_forked(await kernels.start("python3")) for _ in range(3)] == [False] * 3
        line = line_of(kernels)
        server = server_of(line)
        await until(lambda: server.importing == "slow")
        server._too_slow()
        await ready_line(kernels)
        assert line.refused == {"slow": "its import takes more than 60 s"}
        assert is_forked(await kernels.start("python3"))


async def test_a_matplotlibrc_beside_the_notebook_is_read(settings: Settings) -> None:
    (settings.root / "matplotlibrc").write_text("lines.linewidth: 7\n")
    code = "import json, matplotlib; print(json.dumps(matplotlib.rcParams['lines.linewidth']))"
    async with ForkedKernels(dataclasses.replace(settings, preload=("matplotlib",))) as kernels:
        assert await told(await kernels.start("python3"), code) == 7
        (settings.root / "matplotlibrc").unlink()
        kernel = await kernels.start("python3")
        assert (is_forked(kernel), await told(kernel, code)) == (True, 1.5)


DATA = """
%matplotlib inline
import json, warnings
import matplotlib, matplotlib.pyplot as plt, numpy as np, pandas as pd
frame = pd.DataFrame({"word": list("abcab"), "number": range(5)})
means = frame.groupby("word").number.mean()
means.plot();
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pd.Series([1.0, 2.0]).corr(pd.Series([1.0, 1.0]))
print(json.dumps([
    {name: repr(matplotlib.rcParams[name]) for name in matplotlib.rcParams},
    plt.get_backend(),
    repr(plt._REPL_DISPLAYHOOK),
    means.to_dict(),
    str(frame.dtypes),
    {name: repr(value) for name, value in pd.options.d["display"].items() if not isinstance(value, dict)},
    [str(each.message) for each in caught],
    np.linalg.inv(np.eye(300) * 2).sum(),
    sorted(repr(each) for each in warnings.filters),
]))
"""


async def test_pandas_and_matplotlib_are_the_same_when_they_are_preloaded(settings: Settings) -> None:
    preload = ("pandas", "matplotlib.pyplot")
    async with open_kernels(dataclasses.replace(settings, preload=preload)) as kernels:
        spawned = await kernels.start("python3")
        line = await ready_line(kernels)
        assert line.refused == {}
        forked = await kernels.start("python3")
        assert (is_forked(spawned), is_forked(forked)) == (False, True)
        found, expected = await told(forked, DATA), await told(spawned, DATA)
        for one, other in zip(found, expected, strict=True):
            assert one == other
        shown = [await run(kernel, "means.plot();") for kernel in (spawned, forked)]
    for messages in shown:
        [picture] = [message for message in messages if message.msg_type == "display_data"]
        assert "image/png" in picture.content["data"]


# --------------------------------------------------------------------------- which are not forked

PLAIN = ("/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")


@pytest.mark.parametrize(
    ("argv", "env", "language", "environ", "why"),
    [
        (PLAIN, {}, "python", {}, ""),
        ((PLAIN[0], "-Xfrozen_modules=off", *PLAIN[1:]), {}, "python", {}, ""),
        ((PLAIN[0], "-O", *PLAIN[1:]), {}, "python", {}, "its command gives options to Python (-O)"),
        ((*PLAIN, "--pylab"), {}, "python", {}, "its command is no plain"),
        (("python", *PLAIN[1:]), {}, "python", {}, ""),
        (("python3.5", *PLAIN[1:]), {}, "python", {}, "its Python (python3.5) is not given by its path"),
        (("/usr/bin/ark", *PLAIN[1:]), {}, "R", {}, "its command is no plain"),
        (PLAIN, {"A": "1"}, "python", {}, "it sets its own environment (A)"),
        (PLAIN, {}, "python", {"PYTHONHASHSEED": "0"}, "the environment sets PYTHONHASHSEED"),
    ],
)
def test_what_is_not_known_to_be_safe_is_spawned(
    argv: tuple[str, ...], env: dict[str, str], language: str, environ: dict[str, str], why: str
) -> None:
    found = why_spawned(Recipe(Kernelspec("k", "K", language, argv), env=env), environ)
    assert found == why or (why and found.startswith(why))


async def test_a_kernelspec_with_a_command_of_its_own_is_spawned_beside_forked_ones(
    forked: ForkedKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=30"]
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "own", argv)
    for _ in range(2):
        assert not is_forked(await forked.start("own"))


async def test_an_interpreter_whose_ipykernel_cannot_be_imported_is_said_to_be_unfit(
    settings: Settings, modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (modules / "ipykernel").mkdir()
    (modules / "ipykernel" / "__init__.py").write_text("")
    async with LocalKernels(settings) as kernels:
        line = line_of(kernels)
        line.launch()
        with anyio.fail_after(60):
            assert not await server_of(line).is_ready_by(float("inf"))
        await until(lambda: line.unfit != "")
    assert line.unfit.startswith("its ipykernel cannot be imported")
    assert [each.levelno for each in caplog.records if each.name == forks.__name__] == [logging.WARNING]


# --------------------------------------------------------------------------- what doctor says of it


def notebook(path: Path, source: str) -> None:
    cells = [{"cell_type": "markdown", "source": "import nothing"}, {"cell_type": "code", "source": source}]
    path.write_text(json.dumps({"cells": cells}))


async def test_doctor_says_which_kernels_are_forked_and_what_cannot_be_preloaded(
    settings: Settings, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "bad.py").write_text("print('hello')\n")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    kernelspec(tmp_path, "own", ["/usr/bin/ark"], language="R")
    found = [each async for each in examine(dataclasses.replace(settings, preload=("bad", "json")))]
    texts = {each.text: each.fine for each in found}
    version = sys.version.split()[0]
    assert texts[f"Kernels of python3 are forked from Python {version} at {sys.executable}, with json"]
    assert not texts["bad cannot be preloaded: it prints or warns while it is imported"]
    plain = "its command is no plain `python -m ipykernel_launcher -f {connection_file}`"
    assert texts[f"Kernels of own are spawned: {plain}"]
    assert fork_servers() == []


async def test_doctor_says_that_forking_is_switched_off(settings: Settings) -> None:
    [found] = [each async for each in examine(dataclasses.replace(settings, fork_kernels=False))]
    assert found.text == "No kernel is forked: it is switched off"


def test_modules_that_most_notebooks_import_are_proposed(settings: Settings) -> None:
    root = settings.root
    (root / "mine.py").write_text("")
    notebook(root / "a.ipynb", "import pandas as pd\nfrom sklearn.linear_model import Ridge\nimport json, mine")
    notebook(root / "b.ipynb", "%matplotlib inline\n  import pandas\nimport mine\nimport rare")
    (root / ".hidden").mkdir()
    notebook(root / ".hidden" / "c.ipynb", "import hidden")
    assert often_imported(root) == ["pandas", "sklearn.linear_model", "rare"]
    (root / "broken.ipynb").write_text("{")
    notebook(root / "d.ipynb", "x = 'import pandas'\nimport pandas")
    assert often_imported(root) == ["pandas"]


# --------------------------------------------------------------------------- many


# By hand: FORK_STARTS=500 pytest -m long -k ends_leave
STARTS = int(os.environ.get("FORK_STARTS", "60"))


@pytest.mark.long
async def test_many_starts_and_ends_leave_no_process_no_descriptor_and_no_socket(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    place = tempfile.TemporaryDirectory(prefix="run-", dir="/tmp")
    request.addfinalizer(place.cleanup)
    monkeypatch.setenv("XDG_RUNTIME_DIR", place.name)
    async with ForkedKernels(settings) as kernels:
        server = server_of(line_of(kernels))
        await (await kernels.start("python3")).shutdown()
        before = len(os.listdir("/proc/self/fd"))

        async def one() -> None:
            kernel = await kernels.start("python3")
            assert is_forked(kernel)
            await kernel.shutdown()

        for _ in range(STARTS // 4):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(one)
        await until(lambda: processes(settings) == [])
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)
        await until(lambda: psutil.Process(server.pid).children() == [])
        assert len(descriptors(server.pid)) == 1
        assert os.listdir(runtime_folder()) == []
    assert fork_servers() == []

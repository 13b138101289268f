"""A notebook that is run once for each of many sets of parameters, over kernels in memory and by the command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from gateways import RESULTS, code, notebook
from http_app import clean_environment
from mcp_server_jupyter.commands.run import batch_settings, prepare_sets
from mcp_server_jupyter.errors import InvalidRequest, Unavailable
from mcp_server_jupyter.runs import open_runs
from mcp_server_jupyter.runs.fan_out import WORK, FanOut, output_folder
from mcp_server_jupyter.runs.folders import Folders
from mcp_server_jupyter.runs.sets import SUMMARY, ParameterSet, Summary
from mcp_server_jupyter.services import open_services
from mcp_server_jupyter.settings import Settings
from support import eventually

pytestmark = pytest.mark.anyio

PARAMETERS = {"metadata": {"tags": ["parameters"]}}


class Batch:
    """A notebook, a file of sets and a folder of outputs in one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "out"
        self.said: list[str] = []
        self.write("10 // x")

    def write(self, source: str) -> None:
        made = notebook(code("x = 1", **PARAMETERS), code(source, **RESULTS))
        (self.root / "a.ipynb").write_text(json.dumps(made))

    def sets(self, *sets: dict[str, Any]) -> list[ParameterSet]:
        (self.root / "sets.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sets))
        return prepare_sets(self.root, self.root / "a.ipynb", self.root / "sets.jsonl", self.out, {})

    async def run(self, *sets: dict[str, Any], say: Callable[[str], object] | None = None) -> bool:
        self.said = []
        found = self.sets(*sets)
        given = {"root": self.root, "state_dir": self.root.parent / "state", "kernels": "memory", "workers": 2}
        settings = batch_settings(Settings.load(given, environ={}), has_limit=False)
        with output_folder(self.out):
            async with open_services(dataclasses.replace(settings, keep_kernels=False)) as services:
                folders = Folders(self.root, below=f"out/{WORK}", kernels_in="")
                async with open_runs(services, folders) as runs:
                    return await FanOut(runs, found, self.out, "python3", say or self.said.append).run()

    @property
    def summary(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / SUMMARY).read_text().splitlines()]

    @property
    def files(self) -> set[str]:
        return {each.name for each in self.out.iterdir()}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    root = tmp_path / "root"
    root.mkdir()
    return Batch(root)


async def test_each_set_has_its_output_and_its_line(batch: Batch) -> None:
    assert await batch.run({"x": 1}, {"x": 2}, {"x": 5})
    assert [(line["set"], line["parameters"], line["results"]) for line in batch.summary] == [
        (1, {"x": 1}, {"result": 10}),
        (2, {"x": 2}, {"result": 5}),
        (3, {"x": 5}, {"result": 2}),
    ]
    assert batch.files == {SUMMARY, *(line["output"] for line in batch.summary)}
    executed = json.loads((batch.out / batch.summary[1]["output"]).read_text())
    assert "".join(executed["cells"][2]["outputs"][0]["data"]["text/plain"]) == "5"


async def test_a_set_that_fails_is_told_of_and_the_others_go_on(batch: Batch) -> None:
    assert not await batch.run({"x": 0}, {"x": 2})
    first, second = batch.summary
    assert (first["status"], first["error"]["ename"], first["error"]["cell"]) == ("failed", "ZeroDivisionError", 1)
    assert first["error"]["output_nb"] == str(batch.out / first["output"])
    assert "ZeroDivisionError" in (batch.out / first["output"]).read_text()
    assert second["status"] == "done"
    assert any("ZeroDivisionError" in line for line in batch.said)


async def test_what_is_done_is_skipped_and_what_failed_repeated(batch: Batch) -> None:
    ran = batch.root / "ran.txt"
    batch.write(f"with open({str(ran)!r}, 'a') as file:\n    file.write(f'{{x}}\\n')\n1 // x")
    assert not await batch.run({"x": 0}, {"x": 2}, {"x": 2})
    assert sorted(ran.read_text().split()) == ["0", "2", "2"]
    ran.unlink()
    before = batch.summary
    assert not await batch.run({"x": 0}, {"x": 2}, {"x": 2})
    assert ran.read_text().split() == ["0"]
    assert batch.summary[1:] == before[1:]
    assert batch.said[0] == "2 of 3 are done already"


async def test_a_line_put_in_between_takes_nothing_from_the_others(batch: Batch) -> None:
    await batch.run({"x": 1}, {"x": 2})
    before = batch.summary
    await batch.run({"x": 5}, {"x": 1}, {"x": 2})
    assert [(line["set"], line["parameters"]["x"]) for line in batch.summary] == [(1, 5), (2, 1), (3, 2)]
    assert [line["output"] for line in batch.summary[1:]] == [line["output"] for line in before]


async def test_sets_of_a_notebook_that_has_changed_are_run_again(batch: Batch) -> None:
    await batch.run({"x": 1})
    batch.write("20 // x")
    await batch.run({"x": 1})
    assert [line["results"] for line in batch.summary] == [{"result": 20}]


async def test_a_set_whose_output_is_gone_is_run_again(batch: Batch) -> None:
    await batch.run({"x": 1}, {"x": 2})
    (batch.out / batch.summary[0]["output"]).unlink()
    await batch.run({"x": 1}, {"x": 2})
    assert batch.said[0] == "1 of 2 are done already"
    assert (batch.out / batch.summary[0]["output"]).exists()


async def test_a_call_that_is_cut_off_leaves_whole_files_and_the_next_goes_on(batch: Batch) -> None:
    batch.write("sleep(600 if x > 2 else 0); x")
    with anyio.CancelScope() as scope:
        await batch.run({"x": 1}, {"x": 3}, {"x": 4}, say=lambda line: "done" in line and scope.cancel())
    assert scope.cancelled_caught
    assert [line["parameters"] for line in batch.summary] == [{"x": 1}]
    assert batch.files == {SUMMARY, batch.summary[0]["output"]}
    assert await batch.run({"x": 1}, {"x": 2})
    assert batch.said[0] == "1 of 2 are done already"


async def test_what_a_killed_call_left_is_cleared_away(batch: Batch) -> None:
    await batch.run({"x": 1})
    (batch.out / WORK / "left").mkdir(parents=True)
    with (batch.out / SUMMARY).open("a") as file:
        file.write('{"key": "cut o')
    assert await batch.run({"x": 1}, {"x": 2})
    assert len(batch.summary) == 2
    assert not (batch.out / WORK).exists()


def test_two_calls_do_not_share_a_folder(batch: Batch) -> None:
    with output_folder(batch.out):
        with pytest.raises(InvalidRequest, match="Another call"), output_folder(batch.out):
            pass
        assert (batch.out / WORK).is_dir()
    with output_folder(batch.out):
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"x": 1}\n\n{"x": \n', "Line 3"),
        ('{"x": 1}\n[1]\n', "Line 2"),
        ('{"x": NaN}\n', "Line 1"),
        ('{"not a name": 1}\n', "Line 1"),
        ("\n", "no sets"),
    ],
)
def test_sets_that_are_none_are_refused_by_line(batch: Batch, text: str, told: str) -> None:
    sets = batch.root / "sets.jsonl"
    sets.write_text(text)
    with pytest.raises(InvalidRequest, match=told):
        prepare_sets(batch.root, batch.root / "a.ipynb", sets, batch.out, {})
    assert not batch.out.exists()


def test_parameters_for_all_are_those_a_set_does_not_give(batch: Batch) -> None:
    batch.sets({"x": 1}, {"y": 2})
    found = prepare_sets(batch.root, batch.root / "a.ipynb", batch.root / "sets.jsonl", batch.out, {"y": 7})
    assert [each.sent.parameters for each in found] == [{"y": 7, "x": 1}, {"y": 2}]


def test_a_line_that_cannot_be_written_leaves_nothing_of_itself(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    batch.out.mkdir()
    sets = batch.sets({"x": 1}, {"x": 2})
    summary = Summary(batch.out, sets)
    summary.begin()
    summary.add(sets[0].key, {"key": sets[0].key, "set": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # a full disk cannot be had here
    with pytest.raises(OSError, match="No space left"):
        summary.add(sets[1].key, {"key": sets[1].key, "set": 2})
    assert [line["set"] for line in batch.summary] == [1]


async def test_a_folder_that_cannot_be_written_is_named(batch: Batch) -> None:
    batch.out.write_text("a file")
    with pytest.raises(Unavailable, match="out cannot be written"):
        await batch.run({"x": 1})


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    whole = [
        sys.executable,
        "-m",
        "mcp_server_jupyter",
        "run",
        "a.ipynb",
        "--each",
        "sets.jsonl",
        "--output-dir",
        "out",
    ]
    return subprocess.Popen(
        [*whole, "--state-dir", str(folder.parent / "state"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )


def processes(folder: Path) -> list[psutil.Process]:
    """Those that name the folder, or work below it: what is forked has the command line of its fork server."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in argument for argument in (*process.cmdline(), process.cwd())):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_ctrl_c_leaves_whole_files_and_no_kernel_and_the_same_command_goes_on(batch: Batch) -> None:
    (batch.root / "data.txt").write_text("beside the notebook")
    begun = batch.root / "begun"
    source = f"import pathlib, time\nif x > 2 and not pathlib.Path({str(batch.root / 'go')!r}).exists():\n"
    source += f"    pathlib.Path({str(begun)!r}).touch()\n    time.sleep(600)\n(x, open('data.txt').read())"
    batch.write(source)
    batch.sets({"x": 1}, {"x": 3})
    first = command(batch.root, "--workers", "1")
    eventually(begun.exists, 120, "the second set")
    first.send_signal(signal.SIGINT)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 130, told
    assert "The same command goes on" in told
    assert [line["set"] for line in batch.summary] == [1]
    assert batch.files == {SUMMARY, batch.summary[0]["output"]}
    eventually(lambda: not processes(batch.root.parent), 60, "the end of the kernels")
    assert list((batch.root.parent / "state" / "runs").iterdir()) == []
    (batch.root / "go").touch()
    again = command(batch.root)
    said, told = again.communicate(timeout=240)
    assert again.returncode == 0, told
    assert "1 of 2 are done already" in said
    assert [line["results"]["result"] for line in batch.summary] == [[x, "beside the notebook"] for x in (1, 3)]


@pytest.mark.parametrize(
    "options", [["--each", "a"], ["--output-dir", "b"], ["--each", "a", "--output-dir", "b", "--output", "c"]]
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "mcp_server_jupyter", "run", "a.ipynb", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert ended.returncode == 2
    assert "--output-dir go together" in ended.stderr

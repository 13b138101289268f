"""Kernels besides the usual one, real ones: in another language, of another make, and over tcp."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import anyio
import pytest

from mcp_server_jupyter.backends import local
from mcp_server_jupyter.backends.local.kernel import LocalKernel
from mcp_server_jupyter.errors import KernelDead
from mcp_server_jupyter.ports import Kernel, Message
from mcp_server_jupyter.settings import Settings

pytestmark = pytest.mark.anyio

# Not named as such in the arguments: so it is started as a kernel that nothing is known of, which is over tcp.
TCP = "import sys, runpy; sys.argv[0] = 'x'; runpy.run_module('ipy' + 'kernel_launcher', run_name='__main__')"
SPECS: dict[str, dict[str, Any]] = {
    "bash": {"argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"], "language": "bash"},
    "tcp": {"argv": [sys.executable, "-c", TCP, "-f", "{connection_file}"], "language": "python"},
    "told": {
        "argv": [sys.executable, "-c", TCP, "-f", "{connection_file}"],
        "language": "python",
        "interrupt_mode": "message",
    },
}
NEEDS = {"bash": "bash_kernel", "xpython": "xpython_launcher"}
PYTHON = {
    "print": "print('heard')",
    "fail": "1 / 0",
    "set": "kept = 'here'",
    "get": "print(kept)",
    "loop": "import time\nprint('begun', flush=True)\nfor _ in range(600): time.sleep(0.1)",
    "end": "import os; os._exit(3)",
}
BASH = {
    "print": "echo heard",
    "fail": "false",
    "set": "kept=here",
    "get": "echo $kept",
    "loop": "echo begun; sleep 60",
    "end": "kill -9 $PPID",
}


@pytest.fixture(scope="module", params=["bash", "xpython", "tcp", "told"])
async def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kernel]:
    name = request.param
    if find_spec(NEEDS.get(name, "ipykernel")) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    folder = tmp_path_factory.mktemp(name)
    (folder / "root").mkdir()
    if name in SPECS:
        (folder / "kernels" / name).mkdir(parents=True)
        (folder / "kernels" / name / "kernel.json").write_text(json.dumps({"display_name": name, **SPECS[name]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        settings = Settings.load({"root": folder / "root", "state_dir": folder / "state"}, {})
        async with local.open_kernels(settings) as kernels:
            with anyio.fail_after(60):
                kernel = await kernels.start(name)
            yield kernel


@pytest.fixture
def code(kernel: Kernel) -> dict[str, str]:
    return BASH if kernel.language == "bash" else PYTHON


def content(code: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True, **more}


async def run(kernel: Kernel, code: str) -> list[Message]:
    with anyio.fail_after(60):
        return [message async for message in kernel.request("execute_request", content(code))]


def printed(messages: list[Message]) -> str:
    return "".join(message.content["text"] for message in messages if message.msg_type == "stream").strip()


def reply(messages: list[Message]) -> dict[str, Any]:
    [found] = [message for message in messages if message.channel == "shell"]
    return found.content


async def test_a_cell_prints_and_ends(kernel: Kernel, code: dict[str, str]) -> None:
    messages = await run(kernel, code["print"])

    assert printed(messages) == "heard"
    assert reply(messages)["status"] == "ok"
    assert kernel.state == "idle"


async def test_the_channels_are_tcp_for_kernels_that_may_not_speak_ipc(kernel: Kernel) -> None:
    assert isinstance(kernel, LocalKernel)
    info = json.loads((kernel.folder / "connection.json").read_bytes())

    assert (info["transport"], info["ip"]) == ("tcp", "127.0.0.1")
    assert len({info[f"{channel}_port"] for channel in ("shell", "iopub", "stdin", "control", "hb")}) == 5


async def test_an_error_is_a_result_and_the_kernel_goes_on(kernel: Kernel, code: dict[str, str]) -> None:
    assert reply(await run(kernel, code["fail"]))["status"] == "error"
    assert printed(await run(kernel, code["print"])) == "heard"


async def test_an_interrupt_ends_the_cell_and_keeps_the_variables(kernel: Kernel, code: dict[str, str]) -> None:
    if kernel.name == "xpython":
        pytest.skip("xeus-python ends itself on SIGINT")
    await run(kernel, code["set"])
    stream = kernel.request("execute_request", content(code["loop"]))
    with anyio.fail_after(60):
        async for message in stream:
            if message.msg_type == "stream":
                break
        await kernel.interrupt()
        rest = [message async for message in stream]

    assert reply(rest)["status"] in ("error", "abort")
    kept = printed(await run(kernel, code["get"]))
    if kernel.name == "bash" and not kept:
        # bash_kernel may take the prompt of the interrupted command for the next one's end, and be one answer late.
        kept = printed(await run(kernel, code["get"]))
    assert kept == "here"


async def test_input_is_answered_where_the_language_asks_for_it(kernel: Kernel) -> None:
    if kernel.language == "bash":
        pytest.skip("bash_kernel asks for no input")
    found = []
    with anyio.fail_after(60):
        async for message in kernel.request("execute_request", content("print(input('? '))", allow_stdin=True)):
            found.append(message)
            if message.msg_type == "input_request":
                await kernel.send_input("ada", message)

    assert printed(found) == "ada"


async def test_a_restart_forgets_the_variables(kernel: Kernel, code: dict[str, str]) -> None:
    await run(kernel, code["set"])
    epoch = kernel.epoch
    with anyio.fail_after(60):
        await kernel.restart()

    assert kernel.epoch == epoch + 1
    assert "here" not in printed(await run(kernel, code["get"]))


async def test_a_request_is_met_again(kernel: Kernel, code: dict[str, str]) -> None:
    with anyio.fail_after(60):
        async for _ in kernel.request("execute_request", content(code["print"]), msg_id="again"):
            pass
        replay = await kernel.resume("again")
        messages = [message async for message in replay.messages]

    assert replay.complete
    assert printed(messages) == "heard"


async def test_an_end_is_noticed_with_its_cause(kernel: Kernel, code: dict[str, str]) -> None:
    with anyio.fail_after(60), pytest.raises(KernelDead):
        async for _ in kernel.request("execute_request", content(code["end"])):
            pass
    death = await kernel.wait_dead()

    assert death.exit_code == (-signal.SIGKILL if kernel.language == "bash" else 3)

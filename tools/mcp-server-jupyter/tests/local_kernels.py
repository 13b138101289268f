"""What tests of kernels on this machine share."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil

from mcp_server_jupyter.backends.local.kernel import LocalKernel
from mcp_server_jupyter.errors import KernelDead
from mcp_server_jupyter.ports import Message
from mcp_server_jupyter.settings import Settings


def content(code: str) -> dict[str, Any]:
    return {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}


async def run(kernel: LocalKernel, code: str) -> list[Message]:
    with anyio.fail_after(60):
        return [message async for message in kernel.request("execute_request", content(code))]


def printed(messages: list[Message]) -> str:
    return "".join(message.content["text"] for message in messages if message.msg_type == "stream")


@contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    """Signals are ignored here, as in what a shell starts in the background."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def until_dead(messages: AsyncIterator[Message]) -> tuple[list[Message], KernelDead]:
    """What came before the kernel died, and the error that says so."""
    found = []
    try:
        async for message in messages:
            found.append(message)
    except KernelDead as error:
        return found, error
    raise AssertionError("it did not die")


def processes(settings: Settings) -> list[psutil.Process]:
    """Everything that works for this state folder: recorders and kernels name it in their arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(settings.state_dir) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def until(condition: Any, seconds: float = 60) -> None:
    with anyio.fail_after(seconds):
        # Processes and files of others cannot be waited for.
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


def kernelspec(folder: Path, name: str, argv: list[str], **more: Any) -> None:
    target = folder / "kernels" / name
    target.mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": "python", **more}
    (target / "kernel.json").write_text(json.dumps(spec))

"""Bare JSON-RPC over a pipe: from the start of the process to its first answers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .server import COMMAND, arguments

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}


@dataclass(frozen=True, slots=True)
class Spawned:
    """Seconds from the start of the process, and the size of the answer to `tools/list` on the wire."""

    tools_seconds: float
    result_seconds: float
    tools_bytes: int
    tools: int


async def spawn(folder: Path, notebook: str) -> Spawned:
    """Start the server, list its tools, run `1+1` in a new kernel, and end it by closing its input."""
    started = time.perf_counter()
    command = [COMMAND, *arguments(folder)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, limit=2**24
    )
    assert process.stdin is not None
    try:
        _send(process, 1, "initialize", HELLO)
        process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        _send(process, 2, "tools/list", {})
        listed, size = await asyncio.wait_for(_answer(process, 2), 60)
        tools_seconds = time.perf_counter() - started
        call = {"name": "execute_code", "arguments": {"notebook_path": notebook, "code": "1+1"}}
        _send(process, 3, "tools/call", call)
        result, _ = await asyncio.wait_for(_answer(process, 3), 60)
        result_seconds = time.perf_counter() - started
        if result.get("isError"):
            raise RuntimeError(str(result))
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 60)
    return Spawned(tools_seconds, result_seconds, size, len(listed["tools"]))


def _send(process: asyncio.subprocess.Process, number: int, method: str, params: dict[str, Any]) -> None:
    assert process.stdin is not None
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    process.stdin.write(json.dumps(request).encode() + b"\n")


async def _answer(process: asyncio.subprocess.Process, number: int) -> tuple[dict[str, Any], int]:
    assert process.stdout is not None
    async for line in process.stdout:
        message = json.loads(line)
        if message.get("id") == number and "method" not in message:
            return message["result"], len(line)
    raise RuntimeError("The server ended without an answer.")

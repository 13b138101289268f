"""The limit: `jupyter_client` alone, waiting for the reply on shell and for idle on iopub."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call brought: seconds, the text, and the bytes a host would put before the model."""

    seconds: float
    text: str
    content_bytes: int
    image_bytes: int = 0
    is_error: bool = False


class Raw:
    """One kernel and its client, with the methods of `server.Server`."""

    name = "raw"

    def __init__(self, folder: Path, client: AsyncKernelClient) -> None:
        self.folder = folder
        self._client = client

    async def execute(self, notebook: str, code: str) -> Answer:
        started = time.perf_counter()
        outputs = await self._run(code)
        return _answer(outputs, time.perf_counter() - started)

    async def insert_execute(self, notebook: str, code: str) -> Answer:
        """Read the file, run the code, insert a cell with its outputs, write and rename (no fsync, as Jupyter)."""
        started = time.perf_counter()
        path = self.folder / notebook
        content = json.loads(path.read_bytes())
        outputs = await self._run(code)
        cell = {"cell_type": "code", "id": uuid.uuid4().hex[:8], "metadata": {}, "source": code}
        content["cells"].insert(5, {**cell, "outputs": outputs, "execution_count": None})
        temporary = path.with_name(f"{path.name}.part")
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False))
        os.replace(temporary, path)
        return _answer(outputs, time.perf_counter() - started)

    async def _run(self, code: str) -> list[dict[str, Any]]:
        message_id = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        reply = asyncio.create_task(self._reply(message_id))
        outputs = await self._outputs(message_id)
        await reply
        return outputs

    async def _reply(self, message_id: str) -> None:
        while (await self._client.get_shell_msg())["parent_header"].get("msg_id") != message_id:
            pass

    async def _outputs(self, message_id: str) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = []
        while True:
            message = await self._client.get_iopub_msg()
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return outputs
            if kind == "stream" and outputs and outputs[-1]["output_type"] == "stream":
                outputs[-1]["text"].append(content["text"])
            elif kind == "stream":
                outputs.append({"output_type": kind, "name": content["name"], "text": [content["text"]]})
            elif kind in ("display_data", "execute_result", "error"):
                outputs.append({"output_type": kind, **{k: v for k, v in content.items() if k != "transient"}})


@asynccontextmanager
async def raw_kernel(folder: Path) -> AsyncIterator[Raw]:
    """Start a kernel as jupyter_client does by default, and stop it."""
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=120)
        yield Raw(folder, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


def _answer(outputs: list[dict[str, Any]], seconds: float) -> Answer:
    texts, images = [], 0
    for output in outputs:
        if output["output_type"] == "stream":
            texts.append("".join(output["text"]))
        else:
            data = output.get("data", {})
            texts.append(data.get("text/plain", output.get("evalue", "")))
            images += len(data.get("image/png", ""))
    text = "".join(texts)
    return Answer(seconds, text, len(text.encode()) + images, images)

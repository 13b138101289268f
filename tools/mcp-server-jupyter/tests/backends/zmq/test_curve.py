"""A real ipykernel whose channels are encrypted with CURVE, over tcp."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

from mcp_server_jupyter.backends.zmq.wire import Wire
from support import eventually

pytestmark = pytest.mark.anyio
CODE = {"silent": False, "store_history": True, "allow_stdin": True, "stop_on_error": True}


def written(file: Path, names: list[str]) -> dict[str, Any] | None:
    """What a connection file says once the kernel has written its ports into it."""
    try:
        info: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        # The kernel removes the file and writes it anew.
        return None
    return info if all(info.get(name) for name in names) else None


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The connection file of a running kernel that takes encrypted connections only."""
    if not zmq.has("curve"):
        pytest.skip("this libzmq was built without CURVE")
    public, secret = zmq.curve_keypair()
    info: dict[str, Any] = {"transport": "tcp", "ip": "127.0.0.1", "key": "k", "signature_scheme": "hmac-sha256"}
    info |= {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
    # The kernel takes free ports by itself and writes them down: ports chosen here could be another's by then.
    names = [f"{channel}_port" for channel in ("shell", "iopub", "stdin", "control", "hb")]
    file = tmp_path_factory.mktemp("curve") / "connection.json"
    file.write_text(json.dumps(info | dict.fromkeys(names, 0)))
    kernel = subprocess.Popen([sys.executable, "-m", "ipykernel_launcher", "-f", str(file)], cwd=file.parent)
    yield info | eventually(lambda: written(file, names), seconds=60)
    kernel.kill()
    kernel.wait()


@pytest.fixture(params=["the pair provisioned", "a pair of its own"])
async def wire(request: pytest.FixtureRequest, info: dict[str, Any]) -> AsyncIterator[Wire]:
    context: zmq.Context[Any] = zmq.Context()
    known = dict(info)
    if "own" in request.param:
        del known["curve_secretkey"]
    wire = Wire(known, reconnect_ms=10)
    wire.open(context)
    yield wire
    wire.close()
    context.destroy(linger=0)


async def test_a_client_talks_to_an_encrypted_kernel_on_every_channel(wire: Wire) -> None:
    with anyio.fail_after(60):
        await wire.greet()
        found = []
        async for message in wire.request("execute_request", {"code": "print(input('? '))", **CODE}):
            found.append(message)
            if message.msg_type == "input_request":
                wire.answer("told in secret", message)
        assert [m.content["text"] for m in found if m.msg_type == "stream"] == ["told in secret\n"]
        [*_, reply] = [m async for m in wire.request("kernel_info_request", {}, channel="control")]
        assert reply.content["status"] == "ok"


async def test_a_client_without_the_kernels_key_hears_nothing(info: dict[str, Any], wire: Wire) -> None:
    context: zmq.Context[Any] = zmq.Context()
    stranger = Wire({key: value for key, value in info.items() if not key.startswith("curve")}, reconnect_ms=10)
    with anyio.fail_after(60):
        await wire.greet()
    stranger.open(context)
    with anyio.move_on_after(0.3) as scope:
        await stranger.greet()
    stranger.close()
    context.destroy(linger=0)

    assert scope.cancelled_caught

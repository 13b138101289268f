"""The server that a kernel lives on, found from inside the kernel, and its REST door."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..doors.protocol import AGENT_HEADER, KERNEL_HEADER
from ..errors import JupyterMcpError, NotFound, Unavailable
from ..ownership import ROOT, RunningServer, ask_server, is_held, read_record

_KERNELS, _CONNECTION = "kernels", "connection.json"


class Refused(JupyterMcpError):
    """What the server said no to."""

    code = "refused"


@dataclass(frozen=True, slots=True)
class State:
    """A root and the folder of its state."""

    root: Path
    root_state: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation answered: text for a reader, `data` for a program, pictures as (MIME type, base64)."""

    text: str
    data: Mapping[str, Any]
    images: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """A server over HTTP, as the kernel `kernel_id` sees it."""

    url: str
    root: Path
    kernel_id: str
    authorization: str | None = None

    def operations(self) -> list[dict[str, Any]]:
        """Every operation: name, description, `inputSchema`."""
        listed: list[dict[str, Any]] = self._ask("/api/operations", None)["operations"]
        return listed

    def call(self, operation: str, arguments: Mapping[str, Any], *, agent: str | None = None) -> Answer:
        """Run an operation, for the notebook of this kernel where none is named.

        Args:
            agent: who asks for it, if that is no person: then what agents may run holds.

        Raises:
            Refused: with the server's reason.
            Unavailable: it does not answer.
        """
        headers = {} if agent is None else {AGENT_HEADER: agent}
        answer = self._ask(f"/api/operations/{operation}", arguments, headers)
        images = tuple((each["mime_type"], each["data"]) for each in answer["images"])
        return Answer(answer["text"], answer["data"], images)

    def _ask(self, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None = None) -> Any:
        sent = {"content-type": "application/json", KERNEL_HEADER: self.kernel_id, **(headers or {})}
        if self.authorization is not None:
            sent["authorization"] = self.authorization
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, sent)
        # The server is on this machine, whatever proxy notebooks are to use.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except (OSError, HTTPException) as error:
            raise Unavailable(f"The server at {self.url} does not answer ({error}).", hint="Try again.") from error


def _refusal(error: urllib.error.HTTPError) -> JupyterMcpError:
    text = error.read().decode(errors="replace")
    try:
        said = json.loads(text)
        return Refused(said["message"], hint=said.get("hint"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unavailable(f"The server answered {error.code} {error.reason}: {text[:200]}")


def find(connection_file: Path) -> Server:
    """The server of the kernel that has this connection file.

    Raises:
        NotFound: no server of ours started this kernel.
        Unavailable: the one that did does not run, or serves no other clients.
    """
    kernel = connection_file.parent
    folder = kernel.parent.parent
    try:
        if connection_file.name != _CONNECTION or kernel.parent.name != _KERNELS:
            raise FileNotFoundError(connection_file)
        state = State(Path((folder / ROOT).read_text(encoding="utf-8")), folder)
    except OSError as error:
        raise NotFound(
            "No mcp-server-jupyter started this kernel.",
            hint="Run the notebook in a kernel of the server: an agent's, or one picked in the editor.",
        ) from error
    record = _record(state)
    if record is None or record.url is None:
        raise Unavailable(
            f"The server of {state.root} {'takes no other clients' if record else 'does not run'}.",
            hint=f"`mcp-server-jupyter up --root {state.root}` starts one that does.",
        )
    authorization = None if record.token is None else f"Bearer {record.token}"
    return Server(record.address, state.root, kernel.name, authorization)


def _record(state: State) -> RunningServer | None:
    answer = ask_server(state, "record", http=True)
    if answer is not None:
        record = answer["record"]
        assert isinstance(record, dict)
        return RunningServer(**record)
    return read_record(state.root_state) if is_held(state.root_state) else None


def folder_in(root: Path) -> str:
    """The working directory, relative to the root; the root itself where it lies elsewhere."""
    here = os.path.relpath(os.path.realpath("."), os.path.realpath(root))
    return "" if here == os.curdir or here.split(os.sep)[0] == os.pardir else here

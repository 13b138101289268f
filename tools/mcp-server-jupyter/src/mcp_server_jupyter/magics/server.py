"""The server that a kernel lives on, found from inside the kernel, and its REST door."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..doors.protocol import AGENT_HEADER, KERNEL_HEADER, NOTEBOOK_HEADER
from ..errors import JupyterMcpError, NotFound, Unavailable
from ..ownership import ROOT, RunningServer, ask_server, is_held, read_record

_KERNELS, _CONNECTION = "kernels", "connection.json"
_OF_JUPYTER = re.compile(r"kernel-(.+)\.json")
_MOUNTED = "/api/mcp"


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
    """A server over HTTP, as the kernel `kernel_id` sees it, which was started for `notebook` if that is known."""

    url: str
    root: Path
    kernel_id: str
    authorization: str | None = None
    notebook: str | None = None

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
        if self.notebook is not None:
            sent[NOTEBOOK_HEADER] = quote(self.notebook)
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
    with suppress(ValueError, KeyError, TypeError):
        said = json.loads(text)
        said["error"]
        return Refused(said["message"], hint=said.get("hint"))
    return Unavailable(
        f"What should be the server answers {error.code} {error.reason}.",
        hint="In a Jupyter, `jupyter server extension list` says whether mcp_server_jupyter is enabled.",
    )


def find(connection_file: Path, environ: Mapping[str, str]) -> Server:
    """The server of the kernel that has this connection file and this environment.

    Raises:
        NotFound: neither a server of ours nor a Jupyter on this machine started this kernel.
        Unavailable: the one that did does not run, or serves no other clients.
    """
    found = _own(connection_file) or _jupyter(connection_file, environ)
    if found is None:
        raise NotFound(
            "No mcp-server-jupyter started this kernel, and no Jupyter of this machine.",
            hint="Run the notebook in a kernel of the server: an agent's, or one picked in the editor.",
        )
    return found


def _own(connection_file: Path) -> Server | None:
    """A server of ours keeps the kernel's files in its own state."""
    kernel = connection_file.parent
    folder = kernel.parent.parent
    if connection_file.name != _CONNECTION or kernel.parent.name != _KERNELS:
        return None
    try:
        state = State(Path((folder / ROOT).read_text(encoding="utf-8")), folder)
    except OSError:
        return None
    record = _record(state)
    if record is None or record.url is None:
        raise Unavailable(
            f"The server of {state.root} {'takes no other clients' if record else 'does not run'}.",
            hint=f"`mcp-server-jupyter up --root {state.root}` starts one that does.",
        )
    authorization = None if record.token is None else f"Bearer {record.token}"
    return Server(record.address, state.root, kernel.name, authorization)


def _jupyter(connection_file: Path, environ: Mapping[str, str]) -> Server | None:
    """A Jupyter tells its kernels its process id, and under that id where it is (its docs, "Runtime files")."""
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - for kernels of a Jupyter only

    kernel = _OF_JUPYTER.fullmatch(connection_file.name)
    try:
        file = Path(jupyter_runtime_dir()) / f"jpserver-{int(environ['JPY_PARENT_PID'])}.json"
        facts = json.loads(file.read_text(encoding="utf-8"))
        root, url, token = Path(facts["root_dir"]), str(facts["url"]), facts["token"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if kernel is None:
        return None
    name = environ.get("JPY_SESSION_NAME")
    notebook = os.path.relpath(os.path.realpath(name), os.path.realpath(root)) if name else None
    authorization = f"token {token}" if token else None
    return Server(f"{url.rstrip('/')}{_MOUNTED}", root, kernel[1], authorization, notebook)


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

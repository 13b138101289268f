"""Checks of the tutor at a learner who controls their server and looks everywhere for what the tests know."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mia
import pytest
from marks import Marks, holds
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from hub import SECONDS, Hub
from support import eventually

HELLO = "hello-of-the-learner"
WAIT = 240


class Spy:
    """Listens on every kernel of a user, as any window of JupyterLab may, and says so in the user's home."""

    def __init__(self, hub: Hub, user: str, home: Path) -> None:
        self._hub, self._url, self._home = hub, f"{hub.url}/user/{user}/api/kernels", home
        self._token = hub.token(user)
        self._over = threading.Event()
        self._ears: list[threading.Thread] = []
        self.heard: dict[str, list[bytes]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        (self._home / "heard").mkdir(exist_ok=True)
        looking = threading.Thread(target=self._look)
        looking.start()
        try:
            yield
        finally:
            self._over.set()
            looking.join()
            for each in self._ears:
                each.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            status, kernels = self._hub.request("GET", self._url, token=self._token)
            for kernel_id in {each["id"] for each in kernels} - self.heard.keys() if status == 200 else ():
                self.heard[kernel_id] = []
                self._ears.append(threading.Thread(target=self._hear, args=[kernel_id]))
                self._ears[-1].start()

    def _hear(self, kernel_id: str) -> None:
        url = f"{self._url}/{kernel_id}/channels".replace("http:", "ws:")
        headers = {"Authorization": f"token {self._token}"}
        # A kernel may end before it is heard, and ends while it is.
        with suppress(OSError, WebSocketException), connect(url, additional_headers=headers, max_size=None) as socket:
            while not self._over.is_set():
                with suppress(TimeoutError):
                    message = socket.recv(timeout=0.2)
                    self.heard[kernel_id].append(message.encode() if isinstance(message, str) else message)
                    if HELLO.encode() in self.heard[kernel_id][-1]:
                        (self._home / "heard" / kernel_id).touch()


@pytest.fixture(scope="module")
def home(hub: Hub) -> Path:
    """Mia's, whose server has a python3 of her own; it runs."""
    home = hub.folder / "home" / "mia"
    (home / ".jupyter").mkdir(parents=True)
    (home / ".jupyter" / "jupyter_server_config.py").write_text(mia.CONFIG.format(path=str(home / "own")))
    (home / "kernel.py").write_text(mia.KERNEL)
    spec = home / "own" / "kernels" / "python3"
    spec.mkdir(parents=True)
    python = hub.command_of("mia")[0]
    argv = [python, str(home / "kernel.py"), str(home / "messages.log"), "-f", "{connection_file}"]
    made = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(made))
    hub.run("mia")
    return home


@contextmanager
def room(hub: Hub, user: str, path: str) -> Iterator[None]:
    """A notebook open as in JupyterLab: a live document, which is kept in a database as well."""
    base, token = f"{hub.url}/user/{user}/api/collaboration", hub.token(user)
    status, made = hub.request("PUT", f"{base}/session/{path}", {"format": "json", "type": "notebook"}, token)
    assert status in (200, 201), made
    url = f"{base}/room/json:notebook:{made['fileId']}?sessionId={made['sessionId']}".replace("http:", "ws:")
    # Nobody reads what it says, nor answers.
    with connect(url, additional_headers={"Authorization": f"token {token}"}, max_queue=None, ping_interval=None):
        yield


def everything(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a home, by its name."""
    for path in home.rglob("*"):
        # Databases remove what they have beside them.
        with suppress(FileNotFoundError):
            if path.is_file():
                yield str(path.relative_to(home)), path.read_bytes()


def found(home: Path, mark: str | bytes, name: str = "") -> list[str]:
    return [file for file, data in everything(home) if name in file and holds(data, mark)]


def test_nothing_of_a_test_is_found_by_a_learner_who_controls_their_server(hub: Hub, home: Path, marks: Marks) -> None:
    """Contents, checkpoints, live documents, history, messages, frames, processes, and a kernel of their own making."""
    token = hub.token("mia")
    hub.tutor(hub.token("prof"), "deploy_task", learner="mia", task="marks", path="work.ipynb")
    api = f"{hub.url}/user/mia/api/contents/work.ipynb"
    assert hub.request("POST", f"{api}/checkpoints", {}, token)[0] == 201
    spy = Spy(hub, "mia", home)
    with spy.listening():
        with room(hub, "mia", "work.ipynb"):
            cells = hub.request("GET", api, token=token)[1]["content"]["cells"]
            at = next(at for at, cell in enumerate(cells) if cell["id"] == "marks-2")
            work = mia.WORK.format(home=str(home), hello=HELLO)
            given = {"notebook_path": "work.ipynb", "cell_index": at, "cell_source": work}
            hub.call(token, "/mcp", "overwrite_cell_source", **given)
            assert "def looked" in hub.call(token, "/mcp", "read_cell", notebook_path="work.ipynb", cell_index=at)
            told = hub.tutor(token, "check_task", learner="mia", task="marks", wait_seconds=WAIT)
        check = [(each["label"], each["state"]) for each in told["checks"]]
        assert check == [("not that", "passed"), ("that", "failed")], told
        # What was looked through is where it should be: what is visible is found in each of them.
        eventually(lambda: found(home, "def looked", "history.sqlite"), SECONDS, "the history")
        eventually(lambda: found(home, marks.public, ".jupyter_ystore.db"), SECONDS, "the live document's database")
    assert found(home, marks.public, "work.ipynb")
    assert found(home, marks.public, ".ipynb_checkpoints")
    assert found(home, marks.argument, "messages.log")
    assert found(home, marks.argument, "seen.txt")
    assert found(home, b"jupyterhub", "seen.txt"), "the processes were not seen"
    (heard,) = (b"\n".join(messages) for messages in spy.heard.values() if HELLO.encode() in b"".join(messages))
    assert b'"idle"' in heard

    for name, mark in marks.hidden.items():
        assert found(home, mark) == [], name
        assert not holds(b"\n".join(each for messages in spy.heard.values() for each in messages), mark), name
        assert not holds(json.dumps(told).encode(), mark), name

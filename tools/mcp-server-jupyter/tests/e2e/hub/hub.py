"""A real JupyterHub with its proxy and real servers, set up as deploy/jupyterhub says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from http_app import clean_environment
from support import eventually, free_port

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2]
DEPLOY = PACKAGE.parents[1] / "deploy" / "jupyterhub"
ADMIN = "admin-token-of-the-tests-0123456789"
SERVICE = "service-token-of-the-tests-0123456789"
NAME = "ltt-tutor"
SECONDS = 300.0
LEARNERS = ("ada", "bob", "cal", "dora", "mia")


def values(*files: str) -> dict[str, Any]:
    """Values files over each other, as Helm has them: objects are merged, all else is replaced."""
    merged: dict[str, Any] = {}
    for name in ("values.yaml", *files):
        merged = _over(merged, yaml.safe_load((DEPLOY / name).read_text()))
    return merged


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        merged[key] = _over(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


class Hub:
    """A hub whose users `LEARNERS` are learners, `prof` is staff and `eve` nothing.

    Args:
        files: values beside values.yaml.
        options: of the service.
        services: more of them, each with an `api_token`.
        roles: more of them.
        images: users with a `command` and an `environment` of their own.
    """

    def __init__(
        self,
        folder: Path,
        python: str,
        *,
        files: Sequence[str] = (),
        options: Sequence[str] = (),
        services: Sequence[Mapping[str, Any]] = (),
        roles: Sequence[Mapping[str, Any]] = (),
        images: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.log = folder / "hub.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.service = f"{self.url}/services/{NAME}"
        self._python = Path(python)
        self._values = values(*files)["hub"]
        self._options = options
        self._services = services
        self._roles = roles
        self._images = images or {}
        self.process: subprocess.Popen[bytes] | None = None

    def command_of(self, user: str) -> Sequence[str]:
        """What a user's server is started with."""
        image = self._images.get(user)
        return list(image["command"]) if image else [str(self._python.parent / "jupyterhub-singleuser")]

    def start(self) -> Hub:
        home = self._python.parents[1]
        proxy = home / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
        groups = self._values["config"]["JupyterHub"]["load_groups"]
        groups["learners"]["users"] = list(LEARNERS)
        groups["staff"]["users"] = ["prof"]
        command = [sys.executable, "-m", "mcp_server_jupyter", "hub", f"--hub-url={self.url}", "--staff-group=staff"]
        given = {
            "folder": str(self.folder),
            "port": self.port,
            "hub_port": free_port(),
            "proxy_port": free_port(),
            "proxy": ["node", str(proxy)],
            "singleuser": [str(home / "bin" / "jupyterhub-singleuser")],
            "images": self._images,
            "groups": groups,
            "extra_config": list(self._values.get("extraConfig", {}).values()),
            "services": [
                {"name": "admin", "api_token": ADMIN},
                {
                    "name": NAME,
                    "api_token": SERVICE,
                    "url": f"http://127.0.0.1:{free_port()}",
                    "command": [*command, f"--state-dir={self.folder / 'state'}", *self._options],
                },
                *self._services,
            ],
            "roles": [
                {
                    "name": "admin-of-the-tests",
                    "services": ["admin"],
                    "scopes": ["admin:users", "admin:servers", "admin:groups", "tokens"],
                },
                *({"name": name, **role} for name, role in self._values["loadRoles"].items()),
                *self._roles,
            ],
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [home / "bin" / "jupyterhub", "-f", HERE / "jupyterhub_config.py"],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={
                    **clean_environment(),
                    "E2E_HUB": json.dumps(given),
                    "CONFIGPROXY_AUTH_TOKEN": "token-of-the-proxy",
                    "PATH": os.pathsep.join([str(home / "bin"), os.environ["PATH"]]),
                },
            )
        eventually(self._is_up, SECONDS, "the hub's start")
        for name in (*LEARNERS, "prof", "eve"):
            assert self.ask("POST", f"users/{name}")[0] in (201, 409)
        return self

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        with suppress(OSError), urllib.request.urlopen(f"{self.service}/health", timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ok")
        return False

    def ask(self, method: str, path: str, body: Any = None, token: str = ADMIN) -> tuple[int, Any]:
        """The hub's API."""
        return self.request(method, f"{self.url}/hub/api/{path}", body, token)

    def request(self, method: str, url: str, body: Any = None, token: str = ADMIN) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                return error.code, json.loads(text)
            except ValueError:
                return error.code, text.decode(errors="replace")

    def token(self, user: str, *scopes: str) -> str:
        """A token of a user, with all they may or with these scopes."""
        status, made = self.ask("POST", f"users/{user}/tokens", {"scopes": list(scopes)} if scopes else {})
        assert status == 201, made
        return str(made["token"])

    def mcp(self, token: str, path: str, method: str, **params: Any) -> tuple[int, Any]:
        """A call of the service's."""
        return self.request("POST", f"{self.service}{path}", {"method": method, "params": params}, token)

    def call(self, token: str, path: str, tool: str, /, **arguments: Any) -> str:
        status, answer = self.mcp(token, path, "tools/call", name=tool, arguments=arguments)
        assert status == 200, answer
        return "\n".join(part["text"] for part in answer["result"]["content"] if part["type"] == "text")

    def tutor(self, token: str, operation: str, /, **arguments: Any) -> dict[str, Any]:
        """An operation of the tutor's over REST."""
        status, told = self.request("POST", f"{self.service}/tutor/api/{operation}", arguments, token)
        assert status == 200, told
        answer: dict[str, Any] = told
        return answer

    def run(self, user: str) -> None:
        """Have a user's server run."""
        status, _ = self.ask("POST", f"users/{user}/server", {})
        assert status in (201, 202, 400)
        eventually(lambda: self.is_running(user), SECONDS, f"the start of {user}'s server")

    def stop(self, user: str) -> None:
        status, _ = self.ask("DELETE", f"users/{user}/server")
        assert status in (202, 204, 404)
        eventually(lambda: not self.server(user), SECONDS, f"the end of {user}'s server")

    def server(self, user: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"users/{user}")[1]["servers"].get("", {})
        return found

    def is_running(self, user: str) -> bool:
        return bool(self.server(user).get("ready"))

    def close(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        users = (*LEARNERS, "prof", "eve")
        # They outlive a hub that ends.
        with suppress(OSError, AssertionError):
            with ThreadPoolExecutor(len(users)) as pool:
                list(pool.map(lambda user: self.ask("DELETE", f"users/{user}/server"), users))
            eventually(lambda: not any(map(self.server, users)), SECONDS, "the end of the users' servers")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)

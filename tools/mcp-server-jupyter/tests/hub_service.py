"""A hub's service in process, over a fake of the hub and real servers of its users."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from a_hub import SERVICE_TOKEN, FakeHub
from a_jupyter import Jupyter
from http_app import BASE, PORT
from mcp_server_jupyter.doors.hub.app import create_hub
from mcp_server_jupyter.doors.hub.endpoints import open_endpoints
from mcp_server_jupyter.doors.hub.serve import service_settings
from mcp_server_jupyter.doors.hub.tutor import open_tutor_apps
from mcp_server_jupyter.hub import HubApi, Learners, People, open_learners
from mcp_server_jupyter.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
BEARER = "bearer-of-the-operator-0123456789"


class UserServer(Jupyter):
    """A user's own server: it takes what the fake hub has made for that user, and writes down what it was sent.

    Args:
        extension: it has ours, as the wheel enables it.
    """

    def __init__(self, folder: Path, hub: FakeHub, user: str, *, extension: bool = False) -> None:
        self.seen = folder / "seen.txt"
        if extension:
            enabled = next((PROJECT / "jupyter-config").rglob("*.json"))
            config = folder / "jupyter_config_dir" / "jupyter_server_config.d" / enabled.name
            config.parent.mkdir(parents=True)
            config.write_bytes(enabled.read_bytes())
        super().__init__(
            folder,
            "--ServerApp.identity_provider_class=hub_identity.HubIdentity",
            extensions=extension,
            base=f"/user/{user}/",
            environment={
                "FAKE_HUB_USER": user,
                "FAKE_HUB_SEEN": str(self.seen),
                "FAKE_HUB_ACCEPTED": str(hub.accepted),
                "MCP_JUPYTER_STATE_DIR": str(folder / "state"),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            },
        )

    @property
    def tokens(self) -> set[str]:
        """Those it was sent."""
        return set(self.seen.read_text().split()) if self.seen.exists() else set()


@contextmanager
def user_server(folder: Path, hub: FakeHub, user: str, *, extension: bool = False) -> Iterator[UserServer]:
    folder.mkdir()
    server = UserServer(folder, hub, user, extension=extension)
    try:
        server.start()
        yield server
    finally:
        server.close()


def settings_of(folder: Path, hub: FakeHub, **more: Any) -> Settings:
    """The service's own, with nothing of this process's environment."""
    (folder / "state").mkdir(exist_ok=True)
    given = {"hub_api_url": hub.url, "hub_api_token": SERVICE_TOKEN, "hub_service_name": "tutor", "rate_limit": 0}
    return service_settings(Settings.load({"state_dir": folder / "state", **given, **more}, environ={}))


@dataclass
class Service:
    learners: Learners
    app: Any

    def client(self, token: str | None) -> httpx2.AsyncClient:
        """A client of the service that sends this token."""
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        headers = {"authorization": f"token {token}"} if token else {}
        return httpx2.AsyncClient(transport=transport, base_url=BASE, headers=headers, timeout=120)

    async def ask(self, token: str | None, path: str, method: str, **params: Any) -> tuple[int, Any]:
        """One bare JSON-RPC call: the status and the JSON of its answer."""
        async with self.client(token) as client:
            answer = await client.post(path, json={"method": method, "params": params})
            return answer.status_code, answer.json()

    async def call(self, token: str | None, path: str, tool: str, /, **arguments: Any) -> str:
        """The text of a tool's answer."""
        status, answer = await self.ask(token, path, "tools/call", name=tool, arguments=arguments)
        assert status == 200, answer
        return "\n".join(part["text"] for part in answer["result"]["content"] if part["type"] == "text")


@asynccontextmanager
async def open_hub_learners(
    folder: Path, hub: FakeHub, *, idle_seconds: float = 60.0, token_seconds: int = 900, **more: Any
) -> AsyncIterator[Learners]:
    settings = settings_of(folder, hub, **more)
    async with (
        HubApi(hub.url, SERVICE_TOKEN, token_seconds=token_seconds) as api,
        open_learners(api, settings, idle_seconds=idle_seconds) as learners,
    ):
        yield learners


@asynccontextmanager
async def open_service(folder: Path, hub: FakeHub, **more: Any) -> AsyncIterator[Service]:
    settings = settings_of(folder, hub, **more)
    async with (
        HubApi(hub.url, SERVICE_TOKEN) as api,
        open_learners(api, settings) as learners,
        open_endpoints(learners, settings) as endpoints,
    ):
        people = People(api, (BEARER, SERVICE_TOKEN), settings.staff_group, settings.hub_service_name)
        async with open_tutor_apps(settings, people, learners) as apps:
            yield Service(learners, create_hub(settings, people, learners, endpoints, apps, port=PORT))

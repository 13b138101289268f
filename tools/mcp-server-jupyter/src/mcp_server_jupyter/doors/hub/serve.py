"""Serving a hub until a signal: one service for each state folder."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import anyio

from ...addresses import check_address
from ...errors import InvalidRequest, JupyterMcpError, Unavailable
from ...hub import HubApi, People, complaints, hub_settings, open_learners
from ...settings import Settings
from ...tokens import load_token
from ..http.serve import http_door, until_signal
from .app import create_hub
from .endpoints import open_endpoints
from .tutor import open_tutor_apps

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 15.0


def service_settings(settings: Settings) -> Settings:
    """The settings of the service, listening where the hub says.

    Raises:
        InvalidRequest: the hub's address or the token is missing, or cannot be one.
    """
    if not settings.hub_api_url or not settings.hub_api_token:
        raise InvalidRequest(
            "Which hub this is a service of is not known.",
            hint="Give --hub-api-url and --hub-api-token, or JUPYTERHUB_API_URL and JUPYTERHUB_API_TOKEN as hubs do.",
        )
    check_address("Setting 'hub_api_url'", settings.hub_api_url)
    if settings.hub_url:
        check_address("Setting 'hub_url'", settings.hub_url)
    if settings.hub_service_url:
        parts = urlsplit(settings.hub_service_url)
        if parts.port:
            settings = dataclasses.replace(settings, host=_bindable(parts.hostname or ""), port=parts.port)
    return hub_settings(settings)


async def serve_hub(settings: Settings, say: Callable[[str, str | None], object]) -> None:
    """Serve until SIGTERM or SIGINT, then let what runs end for `grace_seconds`; the rest is in the users' kernels.

    Args:
        settings: of `service_settings`; their lock is held.
        say: told the address and the bearer token once it is open.
    """
    assert settings.hub_api_url is not None
    assert settings.hub_api_token is not None
    # Callers are told apart by their tokens: there is nobody to be without one.
    token = load_token(dataclasses.replace(settings, no_auth=False))
    own = (settings.hub_api_token,) if token is None else (token, settings.hub_api_token)
    async with http_door(settings) as door:
        door.listen()
        async with (
            HubApi(settings.hub_api_url, settings.hub_api_token) as hub,
            open_learners(hub, settings) as learners,
            open_endpoints(learners, settings) as endpoints,
            AsyncExitStack() as stack,
        ):
            await stack.enter_async_context(_looked_over(hub))
            people = People(hub, own, settings.staff_group, settings.hub_service_name)
            apps = await stack.enter_async_context(open_tutor_apps(settings, people, learners))
            async with door.serving(partial(create_hub, settings, people, learners, endpoints, apps)):
                say(door.endpoint.removesuffix("/mcp"), token)
                await until_signal()
                door.stop_accepting()
                await learners.drain(settings.grace_seconds)


@asynccontextmanager
async def _looked_over(hub: HubApi) -> AsyncIterator[None]:
    """Warn of what is amiss with the service's role, as soon as the hub tells it."""

    async def look() -> None:
        while True:
            try:
                for complaint in complaints(await hub.own_scopes()):
                    logger.warning("the service's role at the hub: %s", complaint)
            except Unavailable:
                await anyio.sleep(_AGAIN_SECONDS)
                continue
            except JupyterMcpError as error:
                logger.warning("the service's role at the hub is not known: %s", error)
            return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        yield
        tasks.cancel_scope.cancel()


def _bindable(host: str) -> str:
    """An address of this machine: the name of a service in a cluster is none, and means all of them."""
    if host == "localhost":
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "0.0.0.0"

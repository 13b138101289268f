"""Starting users' servers, as far as the hub tells of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio

from ..errors import InvalidRequest, NotFound, Unavailable
from .api import HubApi
from .people import refused

logger = logging.getLogger(__name__)

Report = Callable[[str], Awaitable[None]]


async def start_server(hub: HubApi, user: str, report: Report, seconds: float) -> bool:
    """Have a user's server started; whether it runs after at most `seconds`.

    Args:
        report: told what the hub says of it.

    Raises:
        NotAllowed: there is no such user, or the service's role does not cover them.
        Unavailable: it cannot be started, or not now, or the hub does not answer.
    """
    try:
        with anyio.move_on_after(seconds):
            if await hub.start(user) or await _follow(hub, user, report):
                return True
            server = await hub.server(user)
            if server.is_ready:
                return True
            if not server.is_pending:
                raise Unavailable(f"The hub could not start the server of {user}.", hint="The hub's log says why.")
    except NotFound as error:
        raise refused() from error
    return False


async def _follow(hub: HubApi, user: str, report: Report) -> bool:
    try:
        async with aclosing(hub.progress(user)) as events:
            async for event in events:
                await report(f"{event.percent:.0f} %: {event.text}")
                if event.has_failed:
                    raise Unavailable(
                        f"The server of {user} did not start: {event.text.rstrip('.')}.",
                        hint="The hub's log says why.",
                    )
                if event.is_ready:
                    return True
    except InvalidRequest as error:
        # It has ended to start meanwhile, one way or the other.
        logger.debug("no progress to follow: %s", error)
    return False

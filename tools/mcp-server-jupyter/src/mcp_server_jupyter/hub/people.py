"""Who calls: the hub says whose a token is, and the token's scopes say what it may be used for."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from hashlib import blake2b

import anyio

from ..errors import NotAllowed, Unauthorized
from .api import HubApi, Json

KEPT_SECONDS = 30.0
"""How long an answer of the hub's is believed; a token that is taken back opens nothing after that."""
_MOST_KEPT = 10_000
_REFUSED = "There is no such user, or they are not yours to work for."


@dataclass(frozen=True, slots=True)
class Person:
    """Whoever calls. `name` is None for the operator, who holds the service's own bearer token.

    `scopes` are those of the token that was sent, which may be fewer than the user's own.
    """

    name: str | None
    is_user: bool = True
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()

    @property
    def shown(self) -> str:
        """For logs and journals."""
        return self.name or "operator"


@dataclass(slots=True)
class _Asked:
    """One question to the hub, and its answer."""

    at: float
    answered: anyio.Event = field(default_factory=anyio.Event)
    person: Person | None = None
    error: Exception | None = None


class People:
    """Tells callers by their tokens.

    Args:
        bearer: the service's own tokens: whoever sends one may do everything the service may.
        staff_group: its members may work in others' servers; None, nobody may.
        service: the name the hub knows the service by, None where it is not told.
        clock: seconds, rising.
    """

    def __init__(
        self,
        hub: HubApi,
        bearer: tuple[str, ...],
        staff_group: str | None,
        service: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._bearer = tuple(token.encode() for token in bearer)
        self._staff_group = staff_group
        self._service = service
        self._clock = clock
        self._known: OrderedDict[bytes, _Asked] = OrderedDict()

    async def of(self, token: str) -> Person:
        """Whose a token is. Asked at once by many, the hub is asked once.

        Raises:
            Unauthorized: the hub does not know it, and it is not the service's.
            Unavailable: the hub does not answer.
        """
        sent = token.encode("utf-8", "surrogateescape")
        if any([hmac.compare_digest(sent, own) for own in self._bearer]):
            return Person(None, is_user=False)
        if not token.isascii() or not token.isprintable() or " " in token or not token:
            raise _unauthorized()
        # Tokens themselves are not kept.
        key = blake2b(sent, digest_size=32).digest()
        asked = self._known.get(key)
        if asked is not None and not asked.answered.is_set():
            await asked.answered.wait()
            if asked.error is not None:
                raise copy(asked.error)
            # Whoever asked may have gone before there was an answer.
            asked = self._known.get(key)
        if asked is None or not asked.answered.is_set() or self._clock() - asked.at > KEPT_SECONDS:
            asked = await self._ask(key, token)
        if asked.person is None:
            raise _unauthorized()
        return asked.person

    async def _ask(self, key: bytes, token: str) -> _Asked:
        asked = self._known[key] = _Asked(self._clock())
        self._known.move_to_end(key)
        while len(self._known) > _MOST_KEPT:
            self._known.popitem(last=False)
        try:
            model = await self._hub.owner(token)
            asked.person = None if model is None else _person(model)
        except BaseException as error:
            if self._known.get(key) is asked:
                del self._known[key]
            if isinstance(error, Exception):
                asked.error = error
            raise
        finally:
            asked.answered.set()
        return asked

    # ------------------------------------------------------------------ what they may

    def own(self, person: Person) -> str:
        """The user whose server a person has.

        Raises:
            NotAllowed: they have none, or their token is not for it.
        """
        if person.name is None or not person.is_user:
            raise NotAllowed("This token is no user's.", hint="Name the user: /user/NAME/mcp.")
        if not self._may_own(person, person.name):
            raise NotAllowed(
                "This token is not for its user's server.",
                hint="Use one with the scope access:servers, or all of them.",
            )
        return person.name

    def require(self, person: Person, user: str) -> None:
        """Let a person work in a user's server.

        Raises:
            NotAllowed: they may not; the same whether there is such a user or not.
        """
        if person.name is None:
            return
        if person.is_user and person.name == user:
            self.own(person)
        elif not self.is_staff(person):
            raise refused()

    def is_staff(self, person: Person) -> bool:
        """Whether they may work in others' servers.

        A server's own token is in the environment of whatever runs there: it stands for one server, never for staff.
        """
        if person.name is None:
            return True
        if not person.is_user or self._staff_group is None or self._staff_group not in person.groups:
            return False
        wanted = {"access:services", f"access:services!service={self._service}", f"tokens!user={person.name}", "tokens"}
        return bool(wanted & person.scopes)

    def _may_own(self, person: Person, name: str) -> bool:
        wanted = {"access:servers", f"access:servers!user={name}", f"access:servers!server={name}/"}
        wanted |= {f"access:servers!group={group}" for group in person.groups}
        return bool(wanted & person.scopes)


def refused() -> NotAllowed:
    """What is said of a user who is not there, and of one who is none of the caller's business."""
    return NotAllowed(_REFUSED, hint="Names are spelled as the hub spells them.")


def _unauthorized() -> Unauthorized:
    return Unauthorized(
        "No token of the hub, or a wrong one.",
        hint="Send `Authorization: token TOKEN`; the hub's page /hub/token makes one.",
    )


def _person(model: Json) -> Person:
    def texts(name: str) -> frozenset[str]:
        given = model.get(name)
        return frozenset(each for each in given if isinstance(each, str)) if isinstance(given, list) else frozenset()

    return Person(model["name"], model.get("kind") == "user", texts("groups"), texts("scopes"))

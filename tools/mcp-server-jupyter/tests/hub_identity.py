"""Who may use a user's server under the fake hub: whoever brings a token that the hub has made for that user.

Loaded by real Jupyter servers, of which each writes down the tokens it was sent.
"""

from __future__ import annotations

import json
import os
from typing import Any

from jupyter_server.auth import IdentityProvider, User


class HubIdentity(IdentityProvider):
    """Looks into the file of the fake hub, as a real server asks the hub."""

    need_token = False

    @property
    def auth_enabled(self) -> bool:
        return True

    def get_user(self, handler: Any) -> User | None:
        sent = handler.request.headers.get("Authorization", "").removeprefix("token ")
        user = os.environ["FAKE_HUB_USER"]
        if sent:
            with open(os.environ["FAKE_HUB_SEEN"], "a") as seen:
                seen.write(sent + "\n")
        with open(os.environ["FAKE_HUB_ACCEPTED"]) as accepted:
            return User(user) if sent and json.load(accepted).get(sent) == user else None

    def is_token_authenticated(self, handler: Any) -> bool:
        return True

"""The users of a JupyterHub and their servers: who calls, who may, and a place in each user's own server."""

from .api import HubApi, Minted, Server, SpawnEvent
from .learners import Learners, hub_settings, open_learners
from .people import People, Person

__all__ = [
    "HubApi",
    "Learners",
    "Minted",
    "People",
    "Person",
    "Server",
    "SpawnEvent",
    "hub_settings",
    "open_learners",
]

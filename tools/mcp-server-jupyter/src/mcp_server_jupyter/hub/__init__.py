"""The users of a JupyterHub and their servers: who calls, who may, and a place in each user's own server."""

from .api import HubApi, Learner, Minted, Server, SpawnEvent
from .extension import Extension, Refused
from .learners import Learners, open_learners
from .people import People, Person
from .role import complaints
from .user_settings import hub_settings

__all__ = [
    "Extension",
    "HubApi",
    "Learner",
    "Learners",
    "Minted",
    "People",
    "Person",
    "Refused",
    "Server",
    "SpawnEvent",
    "complaints",
    "hub_settings",
    "open_learners",
]

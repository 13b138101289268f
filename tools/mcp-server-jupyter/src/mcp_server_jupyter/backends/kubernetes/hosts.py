"""The hosts of kernels: of one that is not there yet, and of one that an earlier server has made."""

from __future__ import annotations

import json
import secrets
import string
from base64 import b64decode
from dataclasses import replace
from typing import Any

from . import objects
from .cluster import Cluster
from .forward import Forwards
from .host import Keys, Launch
from .objects import Identity
from .pod import PodHost

Json = dict[str, Any]

_ALPHABET = string.ascii_lowercase + string.digits


def new_host(cluster: Cluster, name: str, cwd: str, *, forwards: Forwards | None, warm: bool = False) -> PodHost:
    """The host of a kernel that is not there yet."""
    one = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    identity = Identity(one, cluster.own.instance, state="warm" if warm else "used")
    return PodHost(cluster, identity, Keys.new(), cwd=cwd, name=name, forwards=forwards)


def known_host(cluster: Cluster, secret: Json, *, forwards: Forwards | None) -> tuple[PodHost, Launch] | None:
    """The host of a kernel that an earlier server has made, and what it started there; None for a broken Secret."""
    metadata = secret["metadata"]
    notes = metadata.get("annotations") or {}
    try:
        config = json.loads(b64decode(secret["data"][objects.AGENT_JSON]))
        keys = Keys(config["key"], config["curve_publickey"], config["curve_secretkey"])
        told = config["launch"]
        launch = Launch(**{**told, "argv": tuple(told["argv"]), "epoch": int(notes[f"{objects.PREFIX}epoch"])})
        identity = Identity(
            metadata["labels"][objects.ID_LABEL],
            cluster.own.instance,
            generation=int(notes[f"{objects.PREFIX}gen"]),
            state=metadata["labels"].get(objects.STATE_LABEL, "used"),
        )
    except (KeyError, ValueError, TypeError):
        return None
    cwd = notes.get(f"{objects.PREFIX}cwd", "")
    launch = replace(launch, folder=cwd)
    return PodHost(cluster, identity, keys, cwd=cwd, name=launch.name, forwards=forwards, secret=secret), launch

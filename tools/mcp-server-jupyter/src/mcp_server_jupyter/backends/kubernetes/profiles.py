"""Kernel profiles: the ways to start a kernel pod, from a YAML file that maps a name to what differs from the default.

gpu:
  image: registry.example.org/torch-kernel:3
  resources: {limits: {memory: 16Gi, nvidia.com/gpu: 1}}
  tolerations: [{key: gpu, operator: Exists}]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from ...errors import InvalidRequest, NotFound
from ...ports import Kernelspec
from ...settings import Settings

if TYPE_CHECKING:
    import yaml

Json = dict[str, Any]
Files = Literal["root", "none"]

DEFAULT = "python3"
DEFAULT_RESOURCES: Json = {
    "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "256Mi"},
    "limits": {"memory": "1Gi", "ephemeral-storage": "4Gi"},
}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
# The cluster gives these to what it runs, and what we select by is ours.
_RESERVED_LABELS = ("app", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance")
_RESERVED_PREFIX = "mcp-jupyter/"


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to start a kernel. Keys with a Kubernetes counterpart are in its own form.

    Args:
        image: of the container; None, the setting `kernel_image`.
        python: the interpreter that runs the agent, and the kernel unless `argv` names another command. It needs pyzmq.
        argv: the kernel's command, with `{connection_file}`; none, ipykernel.
        files: "root" mounts what the server's root is on, where that is possible; "none" starts in an empty home.
        warm: kernels kept waiting, so that a start takes milliseconds.
        schedule_seconds: how long to wait for a node; None, the setting.
        max_hours: after which the cluster ends the pod; None, never.
    """

    name: str
    display_name: str = ""
    language: str = "python"
    interrupt_mode: str = "signal"
    image: str | None = None
    python: str = "python3"
    argv: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=lambda: DEFAULT_RESOURCES)
    nodeSelector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    runtimeClass: str | None = None
    priorityClass: str | None = None
    serviceAccount: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    envFrom: tuple[Json, ...] = ()
    volumes: tuple[Json, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    files: Files = "root"
    warm: int = 0
    schedule_seconds: float | None = None
    max_hours: float | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The kernel's command, still with `{connection_file}`."""
        return self.argv or (self.python, "-m", "ipykernel_launcher", "-f", "{connection_file}")

    @property
    def spec(self) -> Kernelspec:
        """What listings show."""
        return Kernelspec(self.name, self.display_name or self.name, self.language, self.command, source="profile")


class Profiles:
    """The profiles of a server, by name."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = dict(profiles)

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._profiles.values())

    def get(self, name: str) -> Profile:
        """The profile of a name.

        Raises:
            NotFound: the message lists those there are.
        """
        try:
            return self._profiles[name]
        except KeyError:
            names = ", ".join(self._profiles)
            raise NotFound(f"There is no kernel profile {name!r}.", hint=f"There are: {names}.") from None


def load_profiles(settings: Settings) -> Profiles:
    """The profiles of the file that the settings name, and `python3` where it has none of that name.

    Raises:
        InvalidRequest: the file cannot be read, or holds an unknown key or a wrong type; named with its line.
    """
    found = {DEFAULT: Profile(DEFAULT, display_name="Python 3 (pod)")}
    path = settings.kernel_profiles
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"The kernel profiles {path} cannot be read: {error}.", hint="Mend --kernel-profiles."
            ) from error
        found |= parse_profiles(text, str(path))
    return Profiles(found)


def parse_profiles(text: str, place: str) -> dict[str, Profile]:
    """The profiles of a file's text.

    Args:
        place: the file's name, for messages.

    Raises:
        InvalidRequest
    """
    import yaml  # noqa: PLC0415 - part of the extra

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"The kernel profiles {place} are not YAML: {error}", hint="Mend the file.") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise _refused(place, 1, "it must map names to profiles")
    found = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if not _NAME.fullmatch(name):
            raise _refused(place, line, f"{name!r} is no name for a profile: 1 to 63 letters, digits, '.', '_', '-'")
        if name in found:
            raise _refused(place, line, f"there are two profiles {name!r}")
        found[name] = _profile(name, value, values.get(name), place)
    return found


def _profile(name: str, node: yaml.Node, values: Any, place: str) -> Profile:
    import yaml  # noqa: PLC0415 - part of the extra

    if values is None:
        return Profile(name)
    if not isinstance(node, yaml.MappingNode):
        raise _refused(place, node.start_mark.line + 1, f"profile {name!r} must be a mapping of keys")
    given: Json = {}
    for key, _ in node.value:
        word, line = str(key.value), key.start_mark.line + 1
        if word not in _CHECKS:
            known = ", ".join(_CHECKS)
            raise _refused(place, line, f"profile {name!r} has an unknown key {word!r}", hint=f"Known keys: {known}.")
        if word in given:
            raise _refused(place, line, f"profile {name!r} has the key {word!r} twice")
        expected, check = _CHECKS[word]
        try:
            given[word] = check(values[word])
        except ValueError as error:
            detail = f": {error}" if str(error) else ""
            raise _refused(place, line, f"{word!r} of profile {name!r} must be {expected}{detail}") from None
    return Profile(name, **given)


def _refused(place: str, line: int, what: str, *, hint: str = "Mend the file.") -> InvalidRequest:
    return InvalidRequest(f"The kernel profiles {place}, line {line}: {what}.", hint=hint)


# --------------------------------------------------------------------------- what a key may hold


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError
    return tuple(_text(one) for one in value)


def _argv(value: Any) -> tuple[str, ...]:
    words = _texts(value)
    if not any("{connection_file}" in word for word in words):
        raise ValueError("no word holds {connection_file}")
    return words


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return check


def _mapping(value: Any) -> Json:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError
    return value


def _strings(value: Any) -> dict[str, str]:
    found = _mapping(value)
    for key, one in found.items():
        # `on`, `yes` and numbers are not text in YAML, and a guess at what was meant is a trap.
        if not isinstance(one, str):
            raise ValueError(f"{key} is not text; put it in quotes")
    return found


def _labels(value: Any) -> dict[str, str]:
    found = _strings(value)
    for key in found:
        if key in _RESERVED_LABELS or key.startswith(_RESERVED_PREFIX):
            raise ValueError(f"{key} is the server's own label")
    return found


def _resources(value: Any) -> Json:
    found = _mapping(value)
    for part, amounts in found.items():
        if part not in ("limits", "requests"):
            raise ValueError(f"it holds {part!r}")
        for name, amount in _mapping(amounts).items():
            if isinstance(amount, bool) or not isinstance(amount, str | int | float):
                raise ValueError(f"{part}.{name} is no amount")
    return {
        part: {**DEFAULT_RESOURCES[part], **{key: str(one) for key, one in found.get(part, {}).items()}}
        for part in ("requests", "limits")
    }


def _mappings(value: Any) -> tuple[Json, ...]:
    if not isinstance(value, list):
        raise ValueError
    return tuple(_mapping(one) for one in value)


_MOUNT_KEYS = frozenset({"mountPath", "subPath", "readOnly"})


def _volumes(value: Any) -> tuple[Json, ...]:
    found = _mappings(value)
    for one in found:
        if not isinstance(one.get("mountPath"), str) or not one["mountPath"].startswith("/"):
            raise ValueError("each needs an absolute mountPath")
        sources = set(one) - _MOUNT_KEYS
        if len(sources) != 1:
            raise ValueError("each needs one source, as persistentVolumeClaim, configMap or secret")
    return found


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError
    return float(value)


_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "display_name": ("text", _text),
    "language": ("text", _text),
    "interrupt_mode": ('"signal" or "message"', _one_of("signal", "message")),
    "image": ("text", _text),
    "python": ("text", _text),
    "argv": ("a list of words", _argv),
    "resources": ("limits and requests with amounts", _resources),
    "nodeSelector": ("a mapping of text to text", _strings),
    "tolerations": ("a list of mappings", _mappings),
    "runtimeClass": ("text", _text),
    "priorityClass": ("text", _text),
    "serviceAccount": ("text", _text),
    "env": ("a mapping of text to text", _strings),
    "envFrom": ("a list of mappings", _mappings),
    "volumes": ("a list of mappings", _volumes),
    "labels": ("a mapping of text to text", _labels),
    "files": ('"root" or "none"', _one_of("root", "none")),
    "warm": ("a whole number from 0 on", _whole),
    "schedule_seconds": ("a number above 0", _number),
    "max_hours": ("a number above 0", _number),
}
assert set(_CHECKS) == {one.name for one in fields(Profile)} - {"name"}

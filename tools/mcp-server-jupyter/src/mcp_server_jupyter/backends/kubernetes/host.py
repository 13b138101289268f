"""Where one kernel's agent runs, and what it is told when it is made there.

A `Host` is a pod (`pod`), or in the tests a process of this machine. A `PodKernel` (`kernel`) reaches the agent over
a `link` and asks the host only for what the agent cannot know: making, finding and ending the place itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ...ports import Death

CHANNEL_PORTS = {"shell": 52317, "iopub": 52318, "stdin": 52319, "control": 52320, "hb": 52321}
"""The Jupyter channels, forwarded by the agent for any client."""

AGENT_PORT = 52322
"""Our server's own port; see `link`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of one kernel, made once and kept in its Secret. Whoever has them is the kernel's owner.

    Args:
        key: signs messages (HMAC-SHA256), the kernel's and the agent's own.
        public: of the agent's CURVE pair, Z85. It alone lets one read what the kernel publishes.
        secret: the same pair's other half, for the agent.
    """

    key: str = field(repr=False)
    public: str = field(repr=False)
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> Keys:
        """Fresh ones, of 256 bits each."""
        import secrets  # noqa: PLC0415  (with zmq: only where a kernel is started)

        import zmq  # noqa: PLC0415

        public, secret = zmq.curve_keypair()
        return cls(secrets.token_hex(32), public.decode(), secret.decode())

    def connection(self, ip: str, kernel_name: str) -> dict[str, Any]:
        """A connection file's content for any client of the Jupyter channels (jupyter-client docs)."""
        ports = {f"{channel}_port": port for channel, port in CHANNEL_PORTS.items()}
        signing = {"signature_scheme": "hmac-sha256", "key": self.key, "kernel_name": kernel_name}
        curve = {"curve_publickey": self.public, "curve_secretkey": self.secret}
        return {"transport": "tcp", "ip": ip, **ports, **signing, **curve}


@dataclass(frozen=True, slots=True)
class Launch:
    """What the agent starts, and what our server has to know of it.

    Args:
        name: the kernelspec's (profile's) name.
        language: of the kernel, as a kernelspec says it.
        argv: the kernel's command; `{connection_file}` is put in by the agent.
        cwd: an absolute folder, as the place sees it.
        folder: the same one relative to the root, as `ports.Kernel.cwd` has it.
        env: on top of the place's own environment.
        epoch: of the process that is started. A restart in place raises it without a new `Launch` in the Secret.
        interrupt_mode: how a kernelspec wants to be interrupted.
        ipc: whether the kernel can listen on ipc sockets (ipykernel can); others listen on the place's loopback.
        fast: whether it is an ipykernel to be started with the settings that answer fastest.
    """

    name: str
    language: str
    argv: tuple[str, ...]
    cwd: str
    folder: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    epoch: int = 1
    interrupt_mode: Literal["signal", "message"] = "signal"
    ipc: bool = True
    fast: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """What a listing shows of a host: `where` in words for people, and the memory limit in bytes, None without one."""

    where: str = ""
    limit_bytes: int | None = None


class Host(Protocol):
    """The place one kernel's agent runs in. Errors are `errors.JupyterMcpError`s only."""

    @property
    def id(self) -> str:
        """The kernel's: 12 of a-z and 0-9, stable over pods and servers."""

    @property
    def keys(self) -> Keys: ...

    @property
    def lease(self) -> int:
        """The Lease's number: every command to the agent carries it. Asked again for each."""

    @property
    def place(self) -> Place: ...

    async def plan(self, epoch: int) -> Launch:
        """What would be started now, the profile read anew. Changes nothing.

        Raises:
            NotFound: the profile is there no more.
        """

    async def fits(self, launch: Launch) -> bool:
        """Whether the place is there, and made as it would be made for `launch` now, so that a restart in place will
        do. What only `spawn` needs (argv, env, cwd) may differ."""

    async def create(self, launch: Launch, progress: Callable[[str], None]) -> None:
        """Make the place, ending the one there was (generation + 1); return when its address is known.

        `progress` is told the stage in words for people. Cancelled, or failed: nothing of it is left that `remove`
        would not remove.

        Raises:
            KernelStartFailed, Unavailable: with the cause's own text.
        """

    async def address(self) -> tuple[str, int]:
        """Where the agent's own port is now: an IP address (ZMQ must never resolve a name) and `AGENT_PORT`, or
        whatever is forwarded there.

        Raises:
            Unavailable: not known now. Asked again later.
        """

    async def ended(self) -> Death:
        """Return when the place that was made last is gone for good, with the cause as the place knows it: the OOM
        limit, evicted and why, preempted, deleted, its deadline. At once when it is gone already."""

    async def cause(self, told: Death, *, ending: bool = False) -> Death:
        """The agent's own word of the kernel's end, joined with what the place says now.

        `ending`: the place itself is being ended, and the kernel for that alone; why, it may say a moment later.
        Bounded: returns within seconds."""

    async def remove(self) -> None:
        """End the place and remove every object of it. Idempotent."""

    async def note(self, **annotations: str) -> None:
        """Write down what an adopting server has to know: the epoch, on a restart. Rarely, never per cell."""

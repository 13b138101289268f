"""One kernel of a Jupyter server, which others may use, restart and end as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import anyio

from ...errors import JupyterMcpError, KernelDead, KernelStartFailed, NotFound, Unsupported
from ...ports import Death, KernelStats, Message, Replay
from ..zmq.request import Request
from .process import JupyterProcess
from .replay import replay

MEET_SECONDS = 60.0
_FOREIGN_AFTER = 1.0


class JupyterKernel(JupyterProcess):
    """One kernel of a Jupyter server. See `ports.Kernel`; `open` it before use.

    Args:
        known: what is written down of it.
    """

    is_recorded = False

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def language(self) -> str:
        return self.known.language

    @property
    def cwd(self) -> str:
        return self.known.cwd

    @property
    def epoch(self) -> int:
        return self.known.epoch

    @property
    def ends_with_server(self) -> bool:
        """See `ports.Kernel.ends_with_server`: only one that we started, and that no notebook has."""
        return self.known.is_ours and self.known.notebook is None

    @property
    def is_reached(self) -> bool:
        """Whether it is connected now."""
        return self._socket.is_open

    @property
    def unreachable_since(self) -> float | None:
        """See `ports.Kernel.unreachable_since`."""
        return None if self._death is not None else self._socket.unreachable_since

    @property
    def foreign_since(self) -> float | None:
        """See `ports.Kernel.foreign_since`. A kernel that was busy when it was met is taken to be others'."""
        if self._death is not None or self._shared.state != "busy":
            return None
        running = self._shared.running
        if running is None:
            unknown = not self._met.is_set() and self._identified.is_set() and not self._shared.has_sent
            return self._meeting_since if unknown and time.time() - self._meeting_since > _FOREIGN_AFTER else None
        is_ours = running.session == self.known.identity or running.msg_type != "execute_request"
        return None if is_ours else running.since

    async def stats(self) -> KernelStats:
        """See `ports.Kernel.stats`. Jupyter does not say how much memory it has."""
        return KernelStats(where=self._owner.api.where)

    # ------------------------------------------------------------------ life

    def request(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        channel: Literal["shell", "control"] = "shell",
        msg_id: str | None = None,
    ) -> Request:
        """See `ports.Kernel.request`. A kernel that was left alone is connected again."""
        self._socket.wake()
        return super().request(msg_type, content, channel=channel, msg_id=msg_id)

    def open(self) -> None:
        """Begin to be connected; it is as soon as that can be."""
        self._run(self._socket.run)
        self._run(self._look_now_and_then)

    async def come_up(self) -> None:
        """Return once it answers.

        Raises:
            KernelStartFailed
        """
        try:
            with anyio.fail_after(MEET_SECONDS):
                await self._met.wait()
        except TimeoutError:
            raise KernelStartFailed(
                f"The kernel did not answer in {MEET_SECONDS:.0f} s.", hint="Jupyter's log says why."
            ) from None
        if self._death is not None:
            raise KernelStartFailed(f"The kernel {self._death.reason}.", hint="Jupyter's log says why.")

    def adopt(self) -> None:
        """Take over what an earlier server knew; a cell that was with it is listened to from the first message on."""
        self.adopted = True
        if self.known.sent:
            self._shared.take_up(self.known.sent)

    def expect(self, *, reached: bool) -> None:
        """Say whether its Jupyter answered when it was taken over."""
        self._socket.unreachable_since = None if reached else time.time()

    def lose(self, why: str) -> None:
        """It ended while no server ran."""
        self._end(Death(None, why))

    def release(self) -> None:
        """Stop listening; the kernel goes on."""
        self._let_go()
        self._shared.fail(lambda: KernelDead("The server is ending; the kernel goes on.", reason="released"))

    async def interrupt(self, msg_id: str | None = None) -> None:
        """See `ports.Kernel.interrupt`."""
        self._alive()
        if msg_id is not None and not self._shared.is_running(msg_id):
            self._shared.withdraw(msg_id)
            return
        self._shared.interrupted()
        await self._post_interrupt()
        # See `DispatchedKernel.interrupt`.
        self._shared.request("kernel_info_request", {})

    async def restart(self) -> None:
        """See `ports.Kernel.restart`."""
        async with self._lock:
            if self._death is not None:
                await self._revive()
                return
            self._asked = True
            try:
                await self._owner.api.restart(self.id)
            except NotFound as error:
                self._asked = False
                self._end(Death(None, "was shut down at Jupyter"))
                raise KernelDead(
                    "The kernel is not there any more.",
                    reason="shut down",
                    hint="Repeat the call: it starts another one.",
                ) from error
            except JupyterMcpError:
                self._asked = False
                raise
            self._next_epoch("restarted")
            self._asked = False
        await self.come_up()

    async def _revive(self) -> None:
        """Start a process of the same id."""
        self._owner.require_room()
        model = await self._owner.api.start(self.name, self.cwd, self.id)
        if model["id"] != self.id:
            with suppress(JupyterMcpError):
                await self._owner.api.end(model["id"])
            raise Unsupported(
                "This Jupyter cannot start a kernel under its old id.", hint="shutdown_kernel, then start_kernel."
            )
        if self.known.notebook is not None:
            body = session_body(self.known.notebook, {"id": self.id})
            session = await self._owner.api.begin_session(body)
            self.known.session = session["id"]
        self._begun()
        self._unasked = asyncio.get_running_loop().create_future()
        self._next_epoch("restarted")
        self.open()
        await self.come_up()

    async def shutdown(self) -> None:
        """See `ports.Kernel.shutdown`.

        Raises:
            Unavailable: Jupyter does not answer; the kernel is as it was.
        """
        async with self._lock:
            if self._death is None:
                self._asked = True
                try:
                    with anyio.CancelScope(shield=True):
                        await self._delete()
                except JupyterMcpError:
                    self._asked = False
                    raise
            self.forget()

    def forget(self) -> None:
        """It is gone, and nothing of it is to be known."""
        self._let_go()
        self._death = self._death or Death(None, "shut down")
        self._shared.fail(lambda: KernelDead("The kernel was shut down.", reason="shut down"))
        self._owner.kept.forget(self.known)
        self._owner.forget(self)

    async def _delete(self) -> None:
        if self.known.session:
            # Its kernel ends with it.
            with suppress(NotFound):
                await self._owner.api.end_session(self.known.session)
        with suppress(NotFound):
            await self._owner.api.end(self.id)

    async def resume(self, msg_id: str, had: Sequence[Message] = ()) -> Replay:
        """See `ports.Kernel.resume`. Waits while Jupyter cannot be reached."""
        return await replay(self._shared, msg_id, had, was_sent=msg_id == self.known.sent, met=self._identified)


def session_body(notebook: str, kernel: dict[str, str]) -> dict[str, Any]:
    """What Jupyter is told of a notebook's session."""
    return {"path": notebook, "name": notebook.rpartition("/")[2], "type": "notebook", "kernel": kernel}

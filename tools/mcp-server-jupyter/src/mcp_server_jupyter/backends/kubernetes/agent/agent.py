"""The agent: the kernel's parent, its record, and the only one in the pod that is on the network.

    python3 -I FOLDER/agent/__main__.py AGENT.json

What it is told is in AGENT.json (see `delivery.agent_config`), keys among it. It starts the kernel at once, serves
until it is told to stop, and writes the kernel's end where the container's last word is read.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import zmq

from ...shared import recording
from .channels import Channels
from .commands import Commands
from .process import Process, adopt_orphans, collect
from .record import Batch, Record

_TICK_SECONDS = 5.0
# How long an ended kernel's connection may still bring what it had sent.
_DRAIN_SECONDS = 1.0
# How long the server may take to hear of the end before the agent goes, too.
_LINGER_SECONDS = 2.0
_ENDED_BY = ((0.0, signal.SIGTERM), (0.5, signal.SIGKILL))
_LOG_TAIL = 4000


class Agent:
    """One kernel's agent. `run` returns when it is over."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.wakeup, wakeup_write = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        self.stopping = self._told_to_stop = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminated)
        # Handled, not ignored: what is ignored, the kernel would inherit. Those of Python's own `Popen` restores.
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
            if number in (signal.SIGINT, signal.SIGHUP) or signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        adopt_orphans()
        with suppress(OSError):
            os.set_blocking(1, False)
        self.record = Record(config["record"], config["segment_bytes"], config["segments"])
        self.batch = Batch(self.record)
        self.context = zmq.Context()
        self.poller = zmq.Poller()
        self.poller.register(self.wakeup, zmq.POLLIN)
        self.channels = Channels(self.context, self.poller, config, self.take)
        self.commands = Commands(self)
        self.process: Process | None = None
        self.next_launch: dict[str, Any] | None = None
        self.state = "starting"
        self.ended: dict[str, Any] | None = None
        self.asked = False
        self._steps: list[tuple[float, int]] = []
        self._drained_by = 0.0
        self._leave_at: float | None = None
        # Whoever waits for a short time looks more often.
        self._tick_seconds = min(_TICK_SECONDS, max(0.05, config["orphan_seconds"] / 4))
        self._tick_at = time.monotonic() + self._tick_seconds
        # Of this container's group alone: /proc/vmstat counts for the whole node.
        groups = recording.memory_groups(config["control_groups"], config["group_root"])
        self.counters = [next((name for name in group if os.path.exists(name)), group[0]) for group in groups]
        self.oom_before = self.oom_told = self.oom_kills()

    def oom_kills(self) -> int:
        """How often the system has killed in this container for want of memory."""
        return sum(recording.counted(self.counters).values())

    def _terminated(self, *_: Any) -> None:
        # The loop has been woken by the signal's own byte, and does the rest between its steps.
        self._told_to_stop = True

    # ------------------------------------------------------------------ the stream

    def take(self, channel: str, frames: list[bytes]) -> None:
        """Put a message into the stream; `flush` writes it."""
        if channel == "iopub":
            self._track(frames)
        self.batch.put(channel, frames)

    def tell(self, event: str, **what: Any) -> None:
        """Put an event of our own into the stream."""
        self.batch.tell(event, **what)

    def flush(self) -> None:
        """Write what was taken."""
        self.batch.write()

    def _track(self, frames: list[bytes]) -> None:
        # Of the frames behind the delimiter: header, parent header, metadata, content.
        if b'"execution_state"' not in frames[-1] or len(frames) < 6:
            return
        with suppress(ValueError, AttributeError):
            state = json.loads(frames[-1]).get("execution_state")
            parent = json.loads(frames[-3])
            # What control causes says nothing about cells.
            if state in ("busy", "idle") and parent.get("msg_type") == "execute_request":
                self.state = state
            elif state == "idle" and self.state == "starting":
                self.state = "idle"

    # ------------------------------------------------------------------ the kernel's life

    def spawn(self, launch: dict[str, Any]) -> None:
        """Start the kernel of an epoch. A command that cannot be run is a kernel that has ended."""
        self.ended, self.asked, self._steps = None, False, []
        self.state = "starting"
        self.oom_before = self.oom_kills()
        self.config["launch"] = launch
        info = self.channels.connection(launch)
        self._last_word()
        self.process = Process(launch, info, self.config["folder"])
        self.channels.connect(info)
        self.poller.register(self.process.output, zmq.POLLIN)
        self.tell("started", epoch=launch["epoch"], pid=self.process.pid)
        if self.process.zombie:
            self._dying()

    def respawn(self, launch: dict[str, Any]) -> None:
        """End the kernel there is and start the next."""
        self.next_launch = launch
        if self.process is None:
            self._spawn_next()
        else:
            self.end(_ENDED_BY)

    def end(self, steps: Any) -> None:
        """Begin to end the kernel: (seconds from now, signal) by (seconds, signal)."""
        self.asked = True
        now = time.monotonic()
        self._steps = [(now + after, number) for after, number in steps]
        self._step()

    def stop(self, grace: float) -> None:
        """End the kernel within `grace` seconds, then the agent. Once is enough."""
        if self.stopping:
            return
        self.stopping, self.next_launch = True, None
        if self.process is None:
            self._leave_soon()
        else:
            self.end(((0.0, signal.SIGINT), (grace * 0.3, signal.SIGTERM), (grace * 0.6, signal.SIGKILL)))

    def _leave(self) -> None:
        """The container is to end, and nobody asked the kernel for it."""
        if self.stopping:
            return
        if self.process is not None:
            # What it had said before. What it says from here on, our signals make it say.
            self.channels.drain()
            self.tell("stopping")
            self.flush()
        self.stop(self.config["grace_seconds"])

    def _step(self) -> None:
        while self._steps and self._steps[0][0] <= time.monotonic():
            number = self._steps.pop(0)[1]
            if self.process is not None:
                self.process.signal(number)

    def _dying(self) -> None:
        # What it left in its group would keep its output open, and may hold its memory.
        assert self.process is not None
        self.process.signal(signal.SIGKILL)
        self._steps = []
        self._drained_by = time.monotonic() + _DRAIN_SECONDS

    def _finish(self) -> None:
        """The kernel has ended and all it said is read: collect it, and say how it ended."""
        process = self.process
        assert process is not None
        while select.select([process.output], [], [], 0)[0] and self._copy_output(process):
            pass
        process.reap()
        code, kills = process.exit_code, self.oom_kills() - self.oom_before
        self.ended = {
            "epoch": process.epoch,
            "exit_code": code,
            "oom": code == -signal.SIGKILL and kills > 0 and not self.asked,
            "oom_kills": kills,
            "asked": self.asked,
            "maxrss": process.maxrss,
            "log": process.log[-_LOG_TAIL:].decode("utf-8", "replace"),
        }
        self.tell("exited", **self.ended)
        self.flush()
        with suppress(KeyError):
            self.poller.unregister(process.output)
        process.close()
        self.channels.disconnect()
        self.process, self._steps = None, []
        collect(None)
        self._last_word()
        if self.stopping:
            self._leave_soon()
        else:
            self._spawn_next()

    def _spawn_next(self) -> None:
        launch, self.next_launch = self.next_launch, None
        if launch is not None:
            self.spawn(launch)

    def _last_word(self) -> None:
        if self.config["last_word"]:
            known = {name: value for name, value in (self.ended or {}).items() if name != "log"}
            with suppress(OSError), open(self.config["last_word"], "w") as file:
                json.dump(known, file)

    def _leave_soon(self) -> None:
        self.flush()
        self._leave_at = time.monotonic() + (_LINGER_SECONDS if self.commands.is_behind() else 0)

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until it is over."""
        self.spawn(self.config["launch"])
        while self._leave_at is None or (time.monotonic() < self._leave_at and self.commands.is_behind()):
            ready = dict(self.poller.poll(self._patience()))
            if self.wakeup in ready:
                recording.empty(self.wakeup)
                if self._told_to_stop:
                    self._leave()
                collect(self.process)
                if self.process is not None and self.process.zombie and not self._drained_by:
                    self._dying()
            self._step()
            self.channels.read(ready)
            if self.process is not None and self.process.output in ready and not self._copy_output(self.process):
                self.poller.unregister(self.process.output)
            if self.commands.socket in ready:
                self.commands.read()
            self._look_for_end()
            self.flush()
            self.commands.push()
            if time.monotonic() >= self._tick_at:
                self._look_after()
        # What was said last is on its way.
        self.commands.socket.close(linger=500)
        self.context.destroy(linger=500)

    def _patience(self) -> int:
        until = [self._tick_at]
        until += [at for at, _ in self._steps[:1]]
        until += [self._leave_at] if self._leave_at is not None else []
        if self._drained_by:
            return 5
        return max(0, int((min(until) - time.monotonic()) * 1000) + 1)

    def _look_for_end(self) -> None:
        if not self._drained_by:
            return
        if self.channels.drain() or (self.channels.may_have_more() and time.monotonic() < self._drained_by):
            return
        # What was read before the connection's end was told.
        while self.channels.drain():
            pass
        self._drained_by = 0.0
        self._finish()

    def _copy_output(self, process: Process) -> bool:
        data = process.read_output()
        if data:
            # Nobody may read the pod's log: then it is lost, and the kernel goes on.
            with suppress(OSError):
                os.write(1, data)
        return data is not None

    def _look_after(self) -> None:
        """Now and then: tell of children killed for want of memory; end an idle kernel that nobody asks for."""
        self._tick_at = time.monotonic() + self._tick_seconds
        kills = self.oom_kills()
        if kills > self.oom_told and self.process is not None and not self.process.zombie:
            self.tell("oom", kills=kills - self.oom_told)
        self.oom_told = kills
        alone = time.monotonic() - self.commands.heard_at
        if alone >= self.config["orphan_seconds"] and (self.state != "busy" or self.process is None):
            self.stop(self.config["grace_seconds"])


def main(path: str) -> None:
    """Read what there is to do, and do it."""
    with open(path) as file:
        config = json.load(file)
    Agent(config).run()
    sys.stdout.flush()

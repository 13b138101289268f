"""Prometheus metrics, counted from the events."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, exposition
from starlette.requests import Request
from starlette.responses import Response

from ... import __version__
from ...control_group import memory
from ...events import Event
from ...places import Places

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class _Registry(CollectorRegistry):
    """Without the `_created` series of every counter, which nobody asks for; the library's own switch is global."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """A registry of its own, so that two servers in one process do not meet."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.registry = _Registry()
        name = "mcp_jupyter"
        self._operations = Histogram(
            f"{name}_operation_seconds",
            "Seconds an operation took.",
            ["operation", "ok"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._executions = Counter(
            f"{name}_executions", "Executions by what became of them.", ["status"], registry=self.registry
        )
        self._kernel_events = Counter(
            f"{name}_kernel_events", "Kernels started, restarted, died and stopped.", ["what"], registry=self.registry
        )
        self._changes = Counter(f"{name}_notebook_changes", "Changes of notebooks.", registry=self.registry)
        self._kernels = Gauge(f"{name}_kernels", "Kernels by state.", ["state"], registry=self.registry)
        self._active = Gauge(f"{name}_executions_active", "Executions queued or running.", registry=self.registry)
        where = "Bytes of memory %s by the server's control group, or the machine where no group limits it."
        self._memory_used = Gauge(f"{name}_memory_used_bytes", where % "used", registry=self.registry)
        self._memory_limit = Gauge(f"{name}_memory_limit_bytes", where % "to be had", registry=self.registry)
        Info(name, "The server.", registry=self.registry).info({"version": __version__})

    @contextmanager
    def following(self) -> Iterator[None]:
        """Count what happens meanwhile."""
        stop = self._places.everywhere.listen(self._count)
        try:
            yield
        finally:
            stop()

    def _count(self, event: Event) -> None:
        data = event.data
        if event.kind == "operation.finished":
            ok = "true" if data.get("ok") else "false"
            self._operations.labels(str(data.get("name")), ok).observe(float(data.get("seconds", 0.0)))
        elif event.kind == "execution.finished":
            self._executions.labels(str(data.get("status", "unknown"))).inc()
        elif event.kind == "notebook.changed":
            self._changes.inc()
        elif event.kind in ("kernel.started", "kernel.restarted", "kernel.died", "kernel.stopped"):
            self._kernel_events.labels(event.kind.removeprefix("kernel.")).inc()

    async def endpoint(self, request: Request) -> Response:
        everywhere = self._places.all()
        states = Tally(session.kernel.state for services in everywhere for session in services.sessions.all())
        starts = (start for services in everywhere for start in services.sessions.starts.all())
        states["starting"] += sum(start.goes_on for start in starts)
        for state in ("starting", "idle", "busy", "dead"):
            self._kernels.labels(state).set(states[state])
        self._active.set(sum(len(services.executions.active()) for services in everywhere))
        found = await anyio.to_thread.run_sync(memory)
        if found is not None:
            self._memory_used.set(found.used)
            self._memory_limit.set(found.limit)
        encoder, kind = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(self.registry), headers={"content-type": kind})

"""How the gateway is: JSON by default, Prometheus' text where that is asked for."""

from __future__ import annotations

import time
from typing import Any

import anyio.to_thread
import psutil  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Counter, Gauge, exposition
from starlette.requests import Request
from starlette.responses import Response

from ...runs import Runs
from ..http.json_text import Json


class GatewayMetrics:
    """The route `/metrics`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._began = time.monotonic()
        self._process = psutil.Process()
        self._process.cpu_percent()

    async def endpoint(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        facts = await anyio.to_thread.run_sync(self._facts)
        if "text/plain" in accept or "openmetrics" in accept:
            encoder, kind = exposition.choose_encoder(accept)
            return Response(encoder(self._registry(facts)), headers={"content-type": kind})
        return Json(facts)

    def _facts(self) -> dict[str, Any]:
        settings, runs = self._runs.settings, self._runs
        return {
            "service": "papermill-gateway",
            "uptime": round(time.monotonic() - self._began, 1),
            "memory_usage_mb": round(self._process.memory_info().rss / 2**20, 1),
            "cpu_percent": self._process.cpu_percent(),
            "config": {
                "max_notebook_size_mb": _whole(settings.max_notebook_size_mb),
                "execution_timeout": _whole(settings.execution_timeout),
                "use_scrapbook": settings.use_scrapbook,
                "allowed_kernels": list(settings.allowed_kernels),
            },
            "runs": {**runs.counts, "workers": runs.workers, "finished": dict(runs.finished)},
        }

    def _registry(self, facts: dict[str, Any]) -> CollectorRegistry:
        registry = CollectorRegistry()
        Gauge("gateway_uptime_seconds", "Seconds since the start.", registry=registry).set(facts["uptime"])
        memory = Gauge("gateway_memory_bytes", "Resident memory of the gateway itself.", registry=registry)
        memory.set(facts["memory_usage_mb"] * 2**20)
        Gauge("gateway_workers", "Runs at once.", registry=registry).set(facts["runs"]["workers"])
        now = Gauge("gateway_runs", "Runs that wait or run now.", ["state"], registry=registry)
        for state, count in self._runs.counts.items():
            now.labels(state).set(count)
        ended = Counter("gateway_runs_ended", "Runs by what became of them.", ["outcome"], registry=registry)
        for outcome, count in self._runs.finished.items():
            ended.labels(outcome).inc(count)
        return registry


def _whole(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number

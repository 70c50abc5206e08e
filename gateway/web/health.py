"""For those who watch over the gateway: probes, and metrics.

`/healthz` says that the process answers, `/readyz` that it starts kernels. Both are open and say
nothing else. `/metrics` needs the token, or is served on an address of its own (`make_metrics_application`).
"""

from __future__ import annotations

from ..errors import HttpError
from ..observability import CONTENT_TYPE
from .base import ApiHandler


class HealthHandler(ApiHandler):
    """`/healthz`."""

    open_to_all = True

    async def on_get(self) -> None:
        self.answer({"status": "ok"})


class ReadyHandler(ApiHandler):
    """`/readyz`."""

    open_to_all = True

    async def on_get(self) -> None:
        if self.web.kernels.draining:
            raise HttpError(503, "No kernels are started any more. Ask again.", {"Retry-After": "1"})
        self.answer({"status": "ok"})


class MetricsHandler(ApiHandler):
    """`/metrics`, in Prometheus' text format."""

    async def on_get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(self.web.metrics.text())


class OpenMetricsHandler(MetricsHandler):
    """`/metrics` on an address of its own, which the administrator keeps to those who may see it."""

    open_to_all = True

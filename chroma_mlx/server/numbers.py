"""The server's own numbers beside the engine's, for Prometheus."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ..engine.counts import SECONDS
from ..metrics import PREFIX, expose


class RequestNumbers:
    """Requests by route and status, and how long they took. Of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}_requests", "Requests of HTTP and gRPC.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "How long they took.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        # Finding a series by its labels takes longer than counting.
        self._count = lru_cache(None)(lambda route, status: self._requests.labels(route, str(status)).inc)
        self._time = lru_cache(None)(lambda route: self._seconds.labels(route).observe)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._count(route, status)()
        self._time(route)(seconds)

    def expose(self) -> bytes:
        """The engine's numbers and these, in Prometheus' text format."""
        return expose() + generate_latest(self._registry)

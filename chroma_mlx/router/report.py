"""What the router says of its work: typed, frozen, easy to print."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """What a call wrote. `inserted` records are new, `updated` ones were there before.

    `embedded` of them got their vector from the router, `provided` came with one (an update of metadata
    alone is neither). `tokens` were computed, special ones included, equal texts once; `milliseconds` is the
    whole call.
    """

    inserted: int
    updated: int
    embedded: int
    provided: int
    tokens: int
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a router did since it was made: counts, and the milliseconds that its calls took in all."""

    writes: int = 0
    queries: int = 0
    inserted: int = 0
    updated: int = 0
    embedded: int = 0
    provided: int = 0
    tokens: int = 0
    milliseconds: float = 0.0


class UsageCounter:
    """Adds up; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage = Usage()

    def add(self, **amounts: float) -> None:
        """Adds to the counts by name."""
        with self._lock:
            now = asdict(self._usage)
            self._usage = replace(self._usage, **{name: now[name] + amount for name, amount in amounts.items()})

    @property
    def usage(self) -> Usage:
        """The counts so far."""
        return self._usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What makes the vectors. None is what is not known before the model is loaded, or not there at all.

    `dimension` is the width of the vectors, `max_tokens` the longest text, `memory_bytes` what the weights
    take in memory. `loaded` says whether they are.
    """

    mode: str
    name: str
    dimension: int | None
    max_tokens: int | None
    device: str | None
    quantization: str | None
    memory_bytes: int | None
    loaded: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields by name: plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether text becomes vectors here; `detail` says in words what was done, or what is wrong and what to do."""

    healthy: bool
    mode: str
    detail: str
    milliseconds: float

    def __bool__(self) -> bool:
        return self.healthy

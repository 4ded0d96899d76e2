"""What the engine did, counted: plain numbers and distributions, safe from any thread."""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from ..models.groups import plan_groups
from .scheduler import Pass

if TYPE_CHECKING:
    from .request import Embedded

LAST: Final = 4_096  # values that percentiles are of
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TEXTS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
SHARES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the last 4,096 values at most; None where there was none. `count` and `mean` are of all."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Distribution:
    """Values in buckets, each up to a bound, with the sum of all; the last of them for percentiles."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)  # the last one of what is beyond every bound
        self.sum = 0.0
        self._last: deque[float] = deque(maxlen=LAST)

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value
        self._last.append(value)

    def copy(self) -> Distribution:
        """As it is now."""
        made = Distribution(self.bounds)
        made.counts, made.sum, made._last = self.counts.copy(), self.sum, self._last.copy()
        return made

    def cumulative(self) -> list[tuple[str, float]]:
        """(bound, how many values are up to it), the last bound "+Inf": as Prometheus has them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, map(float, itertools.accumulate(self.counts)), strict=True))

    def percentiles(self) -> Percentiles:
        """The percentiles now, each a value that there was."""
        ordered, count = sorted(self._last), sum(self.counts)
        if not ordered:
            return Percentiles(0, None, None, None, None)
        p50, p95, p99 = (ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.95, 0.99))
        return Percentiles(count, self.sum / count, p50, p95, p99)


@dataclass(slots=True)
class Numbers:
    """Everything that is counted of a process's engine since it began.

    `texts`, those of calls that were answered, are by kind; `tokens` those computed for them; `cached` texts were
    found in the vector cache, `truncated` ones cut; `errors` by the name of their class; `load_s` of each model.
    Distributions: texts of a pass, the share of attention's places that were padding, seconds that texts waited for
    a pass, that a pass took, and that whole calls took.
    """

    texts: Counter[str] = field(default_factory=lambda: Counter(document=0, query=0))
    errors: Counter[str] = field(default_factory=Counter)
    load_s: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    cached: int = 0
    truncated: int = 0
    pass_texts: Distribution = field(default_factory=lambda: Distribution(TEXTS))
    padding: Distribution = field(default_factory=lambda: Distribution(SHARES))
    wait_s: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    pass_s: Distribution = field(default_factory=lambda: Distribution(SECONDS))
    call_s: Distribution = field(default_factory=lambda: Distribution(SECONDS))


class Counts:
    """Numbers that any thread may add to, and read as they are at one moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = Numbers()

    def forget(self) -> None:
        """Begins anew, as a forked child does: another thread may have held the lock."""
        self.__init__()  # type: ignore[misc]

    def numbers(self) -> Numbers:
        """A copy."""
        with self._lock:
            values = {each.name: getattr(self._numbers, each.name) for each in fields(Numbers)}
            return Numbers(**{name: each.copy() if hasattr(each, "copy") else each for name, each in values.items()})

    def add_pass(self, done: Pass) -> None:
        """A forward pass."""
        share = padded_share(done)
        with self._lock:
            numbers = self._numbers
            numbers.pass_texts.add(len(done.lengths))
            numbers.padding.add(share)
            numbers.pass_s.add(done.compute_s)
            for seconds in done.waited_s:
                numbers.wait_s.add(seconds)

    def add_call(self, kind: str, found: Embedded, *, seconds: float) -> None:
        """A call that was answered."""
        with self._lock:
            numbers = self._numbers
            numbers.texts[kind] += len(found.vectors)
            numbers.tokens += found.tokens
            numbers.cached += found.cached
            numbers.truncated += found.truncated
            numbers.call_s.add(seconds)

    def add_error(self, error: BaseException) -> None:
        """A call that was not."""
        with self._lock:
            self._numbers.errors[type(error).__name__] += 1

    def add_load(self, model: str, seconds: float) -> None:
        """A model that was loaded."""
        with self._lock:
            self._numbers.load_s[model] = seconds


def padded_share(done: Pass) -> float:
    """Of the places of attention's rows in a pass, those that are padding. (All else works without any.)"""
    groups = [done.lengths[group] for group in plan_groups(done.lengths, done.padding)]
    places = sum(max(group) * len(group) for group in groups)
    return 1 - sum(done.lengths) / places

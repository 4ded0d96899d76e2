"""Which tokens a token sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .batch import Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Which tokens a token sees: itself, and so many before and after it (None: all)."""

    before: int | None = None
    after: int | None = None

    def keys(self, positions: Ints, length: int) -> tuple[int, int]:
        """The range of `length` keys that any of the queries at `positions` sees."""
        first = 0 if self.before is None else max(0, int(positions.min()) - self.before)
        last = length if self.after is None else min(length, int(positions.max()) + self.after + 1)
        return first, last

    def hidden(self, positions: Ints, lengths: Ints, first: int, last: int) -> npt.NDArray[np.bool_] | None:
        """Whether the query at a place does not see key first..last, None where all see all.

        positions: (1 or G, Q); lengths: (G,), the keys of each row that are no padding. Returns (1 or G, 1, 1 or Q,
        last - first). Behind a window padding sees itself, so that no row is hidden whole: the softmax of such
        a row is no number, and would spread.
        """
        queries, keys = positions[:, :, None], np.arange(first, last, dtype=np.int32)
        padding = (keys >= lengths[:, None, None])[:, None]  # (G, 1, 1, keys)
        if self.before is None and self.after is None:
            return padding if padding.any() else None
        hidden = np.zeros((*positions.shape, last - first), dtype=bool)
        if self.before is not None:
            hidden |= keys < queries - self.before
        if self.after is not None:
            hidden |= keys > queries + self.after
        # Padding stands behind a text, where a causal token does not look.
        hidden = hidden[:, None] if self.after == 0 else (hidden[:, None] | padding) & (queries != keys)[:, None]
        return hidden if hidden.any() else None


def added(sight: Sight, positions: Ints, lengths: Ints, first: int, last: int) -> npt.NDArray[np.float32] | None:
    """What is added to scores: 0, or minus infinity where `sight.hidden` is true.

    Of the last columns only: of the keys before them every query sees all. None where all see all.
    """
    hidden = sight.hidden(positions, lengths, first, last)
    if hidden is None:
        return None
    hidden = hidden[..., int(np.argmax(hidden.any(axis=(0, 1, 2)))) :]
    mask: npt.NDArray[np.float32] = np.where(hidden, np.float32(-np.inf), np.float32(0.0))
    return mask

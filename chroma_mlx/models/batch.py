"""Texts of one forward pass: a list of all tokens, and rows of it for attention.

All that looks at single tokens (norms, projections, the feed-forward) works on the list, so nothing is computed
for padding. Attention alone needs a text to itself: texts of about one length are padded to a group of rows.
What makes an mx.array is for the MLX thread; what is NumPy's may be used on any, one at a time.

Shapes: B texts, G of a group, T tokens of all, n of those asked for, R tokens in a row, P of a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .groups import plan_groups
from .host import Array

Ints = npt.NDArray[np.int32]
KeysValues = tuple[mx.array, mx.array]
M = TypeVar("M")

# A matrix product of few rows is fastest on a CPU at a multiple of so many: with OpenBLAS's kernels 13 rows take
# 1.8 ms and 16 rows 1.4 (1024 x 3072, 2 cores). So a list shorter than SHORT_LIST is filled up.
LIST_STEP: Final = {"cpu": 8, "gpu": 1}
SHORT_LIST: Final = 64
# A group's masks that are kept from layer to layer; those of very long texts are made anew.
KEPT_MASK_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens that stand before every text of a batch, as each layer's attention needs them.

    layers: keys and values of each layer, (1, K, P, D), at their positions.
    """

    layers: list[KeysValues]

    @staticmethod
    def of(layers: Sequence[KeysValues]) -> Prefix:
        """Of keys and values in any layout: each in one piece, evaluated."""
        whole = [(mx.contiguous(keys), mx.contiguous(values)) for keys, values in layers]
        mx.eval(whole)
        return Prefix(whole)

    @property
    def tokens(self) -> int:
        """P."""
        return self.layers[0][0].shape[2]

    def cut(self, tokens: int) -> Prefix:
        """The first `tokens` of it, which what stands behind them never changed."""
        if tokens == self.tokens:
            return self
        return Prefix.of([(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in self.layers])


class Rows:
    """Some tokens, side by side, of each text of a group, in rows: (G, R, …).

    `positions`: (1 or G, R), where each stands in its text, the prefix counted; `offset` is the first of them,
    one number where all texts agree. `keys`: (G,), the tokens of each text that may be seen, the prefix counted.
    `texts`: where each begins in the list, and how many of its tokens are here. `slice` is their part of the list.
    """

    def __init__(self, start: int, first: Ints, counts: Ints, keys: Ints) -> None:
        """start: where the group's tokens begin in the list; first: (G,), the place of each text's first token
        here; counts: (G,), how many there are."""
        G, R = len(counts), int(counts.max())
        self.slice = slice(start, start + int(counts.sum()))
        self.shape = (G, R)
        begins = start + np.cumsum(counts) - counts
        self.texts: list[tuple[int, int]] = list(zip(begins.tolist(), counts.tolist(), strict=True))
        row = np.arange(R, dtype=np.int32)[None, :]  # (1, R)
        self._fill: Ints | None = None
        self._back: Ints | None = None
        self._on_device: dict[int, mx.array] = {}
        if int(counts.min()) < R:
            # Padding repeats the row's last token: numbers that can be computed with.
            starts = np.cumsum(counts, dtype=np.int32) - counts
            self._fill = starts[:, None] + np.minimum(row, counts[:, None] - 1)  # (G, R)
            self._back = np.flatnonzero(row < counts[:, None]).astype(np.int32)  # (n,)
        same = int(first.min()) == int(first.max())
        self.positions: Ints = row + (first[:1, None] if same else first[:, None])
        self.offset: int | Ints = int(first[0]) if same else first
        self.keys = keys
        self._masks: dict[Hashable, Any] = {}
        self._kept_bytes = 0

    def kept_mask(self, key: Hashable, make: Callable[[], M]) -> M:
        """What `make` gives, kept for the next layer that asks for `key`, unless it is too large to be kept."""
        if key in self._masks:
            found: M = self._masks[key]
            return found
        mask = make()
        size = getattr(mask, "nbytes", 0)
        if self._kept_bytes + size <= KEPT_MASK_BYTES:
            self._masks[key] = mask
            self._kept_bytes += size
        return mask

    def spread(self, x: Array) -> Array:
        """Of the list, (n, …): this group's rows, (G, R, …); a shorter one is filled up with its last token."""
        x = x[self.slice]
        return x.reshape(*self.shape, *x.shape[1:]) if self._fill is None else self._pick(x, self._fill)

    def heads(self, x: Array, count: int) -> Array:
        """(n, count * D) to (G, count, R, D), as attention takes it."""
        return self.spread(x).reshape(*self.shape, count, -1).transpose(0, 2, 1, 3)

    def merge(self, x: Array) -> Array:
        """(G, N, R, D), what attention gives, to the group's part of the list, (…, N * D)."""
        x = x.transpose(0, 2, 1, 3).reshape(self.shape[0] * self.shape[1], -1)
        return x if self._back is None else self._pick(x, self._back)

    def _pick(self, x: Array, places: Ints) -> Array:
        """x at `places`, which go to the device once."""
        if isinstance(x, np.ndarray):
            return x[places]
        if id(places) not in self._on_device:
            self._on_device[id(places)] = mx.array(places)
        return x[self._on_device[id(places)]]


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of about one length. `every` are all their tokens, `wanted` those asked for."""

    every: Rows
    wanted: Rows


@dataclass(frozen=True, slots=True)
class Batch:
    """What an encoder is given.

    ids: (T,), text after text; positions: (T,), where each stands in its text. The last `spare` are of no text.
    `wanted`, (n,), says which of the list are asked for; None is all. `kept`, where it is a list, gets each
    layer's keys and values.
    """

    ids: Ints
    positions: Ints
    groups: tuple[Group, ...]
    spare: int = 0
    wanted: Ints | None = None
    prefix: Prefix | None = None
    kept: list[KeysValues] | None = None
    _tables: dict[Hashable, Any] = field(default_factory=dict)

    def kept_table(self, key: Hashable, make: Callable[[Ints], M]) -> M:
        """What `make` gives for the positions, kept for the next layer that asks for `key`."""
        if key not in self._tables:
            self._tables[key] = make(self.positions)
        found: M = self._tables[key]
        return found

    def take(self, x: Array, *, last: bool) -> Array:
        """Of all tokens, (T, …), those a layer has to go on with: behind the `last` only the wanted, (n, …)."""
        if not last or self.wanted is None:
            return x
        return x[self.wanted] if isinstance(x, np.ndarray) else x[mx.array(self.wanted)]


def make_batch(
    texts: Sequence[Ints],
    *,
    padding: int,
    step: int = 1,
    wanted: Ints | None = None,
    prefix: Prefix | None = None,
    keep: bool = False,
) -> Batch:
    """A batch of the token ids of each text, 1 or more.

    wanted: (B,), the position in each text of the token that is asked for, None for all of them. With a `prefix`
    the texts begin with its tokens, and every wanted one is behind them. `padding`: see GROUP_PADDING; `step`: see
    LIST_STEP.
    """
    before = 0 if prefix is None else prefix.tokens
    keys = np.array([len(text) for text in texts], dtype=np.int32)  # (B,)
    counts = keys - before
    starts = np.cumsum(counts, dtype=np.int32) - counts
    groups = []
    for some in plan_groups(counts.tolist(), padding):
        first = np.full(len(counts[some]), before, dtype=np.int32)
        every = Rows(int(starts[some.start]), first, counts[some], keys[some])
        asked = every
        if wanted is not None:
            asked = Rows(some.start, wanted[some], np.ones_like(counts[some]), keys[some])
        groups.append(Group(every, asked))
    total = int(counts.sum())
    spare = -total % step if total < SHORT_LIST else 0
    filling = np.zeros(spare, dtype=np.int32)
    return Batch(
        ids=np.concatenate([*(text[before:] for text in texts), filling]),
        positions=np.concatenate([*(np.arange(before, length, dtype=np.int32) for length in keys), filling]),
        groups=tuple(groups),
        spare=spare,
        wanted=None if wanted is None else starts + wanted - before,
        prefix=prefix,
        kept=[] if keep else None,
    )

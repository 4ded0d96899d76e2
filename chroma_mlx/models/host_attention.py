"""Attention of whole texts through the BLAS itself: a head and some queries at a time, in a core's cache.

MLX's arrays want each head's rows side by side, which is a copy of queries, keys, values and the result, and the
scores of a whole batch between two of its products go to memory and back. Here a block of queries of one head
is multiplied with the keys it may see, turned into weights and multiplied with the values, in one go, on every
core at once; the tokens stay in their list, and nothing is computed for padding.
Runs on the MLX thread, but for the blocks that other threads take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from ..blas import PLAIN, ROW_MAJOR, TRANSPOSED, Product, one_thread
from .batch import KeysValues, Rows
from .host import Floats, in_blocks, softmax_over, view
from .sight import Sight, added

# Queries of a block: of a causal text the keys behind a block's last query are not computed.
QUERIES: Final = 128
# Scores of a job, in a core's cache; heads of few scores go together, since a job costs some 40 us besides.
ELEMENTS: Final = 128 * 1024
# A text of fewer floating-point operations has too little work to be cut (measured, on 2 cores: Qwen3's texts of 64
# tokens gain a little, of 512 are done in half the time; MiniLM's gain from 128 on).
WORTH_FLOPS: Final = 2e7
FLOAT: Final = 4  # bytes


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries `first` to `stop` of the text that begins at `start` in the list, and what they see: keys
    `keys_first` to `keys_stop`, the prefix counted, of which the last columns get `mask`."""

    start: int
    first: int
    stop: int
    keys_first: int
    keys_stop: int
    mask: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some keys and values of a head: where they begin (addresses), the floats from one to the next, how many."""

    keys: int
    values: int
    step: int
    count: int


def is_worth_it(rows: Rows, width: int) -> bool:
    """Whether a group's texts are long enough for `attend_by_text`; `width` is heads * D."""
    return 4.0 * rows.shape[1] ** 2 * width >= WORTH_FLOPS


def attend_by_text(
    rows: Rows,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    heads: int,
    key_heads: int,
    scale: float,
    sight: Sight,
    prefix: KeysValues | None,
    product: Product,
) -> None:
    """Writes over q, (T, heads * D), what the texts of a group gather; k, v: (T, key_heads * D).

    All are float32 and evaluated, and so is the `prefix`.
    """
    D = q.shape[1] // heads
    before = 0 if prefix is None else prefix[0].shape[2]
    queries, keys, values = (_address(array) for array in (q, k, v))
    prefixes = None if prefix is None else (_address(prefix[0]), _address(prefix[1]))

    def parts(block: _Block, head: int) -> list[_Part]:
        """The keys and values that a block sees: of the prefix, and the text's own."""
        found = []
        if prefixes is not None and block.keys_first < before:
            offset = FLOAT * (head * before + block.keys_first) * D
            count = min(before, block.keys_stop) - block.keys_first
            found.append(_Part(keys=prefixes[0] + offset, values=prefixes[1] + offset, step=D, count=count))
        own = max(block.keys_first - before, 0)
        if (count := block.keys_stop - before - own) > 0:
            offset = FLOAT * ((block.start + own) * key_heads + head) * D
            found.append(_Part(keys=keys + offset, values=values + offset, step=key_heads * D, count=count))
        return found

    def job(place: slice) -> None:
        block, some = jobs[place.start]
        M, columns = block.stop - block.first, block.keys_stop - block.keys_first
        scores = np.empty((len(some), M, columns), dtype=np.float32)
        start, size = _address(scores), FLOAT * M * columns
        asked = queries + FLOAT * (block.start + block.first) * heads * D
        seen = [parts(block, head * key_heads // heads) for head in some]
        for index, head in enumerate(some):
            at = start + index * size
            for part in seen[index]:
                product(
                    *(ROW_MAJOR, PLAIN, TRANSPOSED, M, part.count, D),
                    *(scale, asked + FLOAT * head * D, heads * D, part.keys, part.step, 0.0, at, columns),
                )
                at += FLOAT * part.count
        softmax_over(scores, block.mask)
        for index, head in enumerate(some):
            at, kept = start + index * size, 0.0
            for part in seen[index]:
                product(
                    *(ROW_MAJOR, PLAIN, PLAIN, M, D, part.count),
                    *(1.0, at, columns, part.values, part.step, kept, asked + FLOAT * head * D, heads * D),
                )
                at, kept = at + FLOAT * part.count, 1.0

    jobs = [(block, some) for block in _blocks(rows, sight, before) for some in _heads_of(block, heads)]
    with one_thread():  # a product each
        in_blocks(job, len(jobs), 1)


def _heads_of(block: _Block, heads: int) -> Iterator[range]:
    """The heads in parts whose scores are some ELEMENTS, one at least."""
    step = max(1, ELEMENTS // ((block.stop - block.first) * (block.keys_stop - block.keys_first)))
    for first in range(0, heads, step):
        yield range(first, min(first + step, heads))


def _blocks(rows: Rows, sight: Sight, before: int) -> Iterator[_Block]:
    """The blocks of all texts of a group, the longest first: what is taken last should not take long."""
    for start, count in rows.texts:
        length = np.array([before + count], dtype=np.int32)
        for first in range((count - 1) // QUERIES * QUERIES, -1, -QUERIES):
            stop = min(first + QUERIES, count)
            positions = np.arange(before + first, before + stop, dtype=np.int32)[None]  # (1, queries)
            keys_first, keys_stop = sight.keys(positions, before + count)
            mask = added(sight, positions, length, keys_first, keys_stop)
            yield _Block(start, first, stop, keys_first, keys_stop, None if mask is None else mask[0, 0])


def _address(array: mx.array | Floats) -> int:
    memory = view(array) if isinstance(array, mx.array) else array
    address: int = memory.__array_interface__["data"][0]
    return address

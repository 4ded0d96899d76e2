"""Attention on a host.

Long texts through the BLAS itself: a block of queries of some heads is multiplied with the keys it may see, turned
into weights and multiplied with the values, in one go, on every core at once; the tokens stay in their list, and
nothing is computed for padding. Short ones by NumPy, all heads of a group of texts at a time: they have too little
work to be cut.
For its threads see host.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import mlx.core as mx
import numpy as np

from ..blas import PLAIN, ROW_MAJOR, TRANSPOSED, Product, one_thread, own_product
from .batch import Batch, KeysValues, Rows
from .host import FLOAT, Floats, address, exponentials, in_blocks, softmax, view
from .sight import Sight, added

# Queries of a block: of a causal text the keys behind a block's last query are not computed.
QUERIES: Final = 256
# Scores of a job; heads of few scores go together, since a job costs some 40 us besides. (Half of both, which stays
# in a core's own cache, takes 5 % longer in MiniLM's shape.)
ELEMENTS: Final = 256 * 1024
# Queries of a group in rows are taken in blocks whose scores, G * N * queries * keys, fit these bytes: memory is
# bounded at any length.
MAX_SCORE_BYTES: Final = 32 * 2**20
# A text whose products have fewer multiplications has too little work to be cut. NumPy's library, which is not told how
# many threads to use, takes one for as many, and several for more, which on small products wait for one another.
WORTH_PRODUCT: Final = 2**18


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


@dataclass(frozen=True, slots=True)
class _Part:
    """Some keys and values of a head: where they begin (addresses), the floats from one to the next, how many."""

    keys: int
    values: int
    step: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lists:
    """The tokens' queries, (T, heads * D), where keys and values, (T, key_heads * D), are in memory, and those of a
    prefix of `before` tokens, (key_heads, before, D)."""

    queries: Floats
    keys: int
    values: int
    prefix_keys: int
    prefix_values: int
    before: int
    heads: int
    key_heads: int
    D: int
    scale: float
    product: Product

    def compute(self, block: _Block, heads: range) -> None:
        """Writes over a block's queries of some heads what they gather."""
        D, product = self.D, self.product
        M, columns = block.stop - block.first, block.keys_stop - block.keys_first
        scores = np.empty((len(heads), M, columns), dtype=np.float32)
        start, step = address(scores), self.heads * D
        own = self.queries[block.start + block.first : block.start + block.stop, heads[0] * D : (heads[-1] + 1) * D]
        rows = address(own)
        seen = [self._seen(block, head * self.key_heads // self.heads) for head in heads]
        for index in range(len(heads)):
            asked, at = rows + FLOAT * index * D, start + FLOAT * index * M * columns
            for part in seen[index]:
                product(
                    *(ROW_MAJOR, PLAIN, TRANSPOSED, M, part.count, D),
                    *(self.scale, asked, step, part.keys, part.step, 0.0, at, columns),
                )
                at += FLOAT * part.count
        sums = exponentials(scores, block.mask)  # (heads, M, 1)
        for index in range(len(heads)):
            asked, at, kept = rows + FLOAT * index * D, start + FLOAT * index * M * columns, 0.0
            for part in seen[index]:
                product(
                    *(ROW_MAJOR, PLAIN, PLAIN, M, D, part.count),
                    *(1.0, at, columns, part.values, part.step, kept, asked, step),
                )
                at, kept = at + FLOAT * part.count, 1.0
        gathered = own.reshape(M, len(heads), D)  # a view
        gathered /= sums.swapaxes(0, 1)

    def _seen(self, block: _Block, head: int) -> list[_Part]:
        """The keys and values that a block sees: of the prefix, and the text's own."""
        parts, D, before = [], self.D, self.before
        if (count := min(before, block.keys_stop) - block.keys_first) > 0:
            offset = FLOAT * (head * before + block.keys_first) * D
            parts.append(_Part(self.prefix_keys + offset, self.prefix_values + offset, D, count))
        own = max(block.keys_first - before, 0)
        if (count := block.keys_stop - before - own) > 0:
            offset = FLOAT * ((block.start + own) * self.key_heads + head) * D
            parts.append(_Part(self.keys + offset, self.values + offset, self.key_heads * D, count))
        return parts


def attend_on_host(
    batch: Batch,
    q: Floats,
    k: Floats,
    v: Floats,
    *,
    heads: int,
    key_heads: int,
    scale: float,
    sight: Sight,
    last: bool,
    prefix: KeysValues | None,
) -> None:
    """Writes over q, (n, heads * D), what its tokens gather; k, v: (T, key_heads * D).

    Queries and keys are placed. q is of all tokens, or in the `last` layer of the wanted.
    """
    before = None if prefix is None else (view(prefix[0]), view(prefix[1]))
    by_text = batch.kept is None and not (last and batch.wanted is not None) and own_product() is not None
    for group in batch.groups:
        rows, every = group.wanted if last else group.every, group.every
        if by_text and is_worth_it(every, q.shape[1] // key_heads):
            shape = {"heads": heads, "key_heads": key_heads}
            attend_by_text(every, q, k, v, **shape, scale=scale, sight=sight, prefix=before)
            continue
        keys, values = every.heads(k, key_heads), every.heads(v, key_heads)  # (G, K, R, D)
        if batch.kept is not None:
            batch.kept.append((mx.array(keys), mx.array(values)))
        if before is not None:
            keys, values = _behind(before[0], keys), _behind(before[1], values)  # (G, K, P + R, D)
        mixed = attend_in_rows(rows.heads(q, heads), keys, values, scale=scale, sight=sight, rows=rows)
        q[rows.slice] = rows.merge(mixed)


def _behind(prefix: Floats, own: Floats) -> Floats:
    """prefix: (1, K, P, D), the same before each of own: (G, K, R, D). Returns (G, K, P + R, D)."""
    return np.concatenate([np.broadcast_to(prefix, (len(own), *prefix.shape[1:])), own], axis=2)


def attend_in_rows(queries: Floats, keys: Floats, values: Floats, *, scale: float, sight: Sight, rows: Rows) -> Floats:
    """Softmax attention of a group, whose rows are padded.

    queries: (G, N, Q, D), those of `rows`; keys, values: (G, K, S, D) with N a multiple of K, from the first
    token on. Returns (G, N, Q, D).
    """
    G, N, Q, D = queries.shape
    K, S = keys.shape[1], keys.shape[2]
    out = np.empty((G, N, Q, D), dtype=np.float32)
    block = max(1, min(Q, QUERIES, MAX_SCORE_BYTES // (FLOAT * G * N * S)))
    for start in range(0, Q, block):
        stop = min(start + block, Q)
        here = rows.positions[:, start:stop]
        first, last = sight.keys(here, S)
        # Heads that share keys are rows of one product: (G, K, N / K * block, D) @ (G, K, D, keys).
        asked = (queries[:, :, start:stop] * np.float32(scale)).reshape(G, K, -1, D)
        scores = (asked @ keys[:, :, first:last].swapaxes(2, 3)).reshape(G, N, stop - start, -1)
        softmax(scores, rows.kept_mask((sight, start, stop), partial(added, sight, here, rows.keys, first, last)))
        mixed = scores.reshape(G, K, -1, last - first) @ values[:, :, first:last]
        out[:, :, start:stop] = mixed.reshape(G, N, stop - start, D)
    return out


def is_worth_it(rows: Rows, width: int) -> bool:
    """Whether a group's texts are long enough for `attend_by_text`; `width` is that of the heads that share keys."""
    return rows.shape[1] ** 2 * width > WORTH_PRODUCT


def attend_by_text(
    rows: Rows,
    q: Floats,
    k: Floats,
    v: Floats,
    *,
    heads: int,
    key_heads: int,
    scale: float,
    sight: Sight,
    prefix: tuple[Floats, Floats] | None,
) -> None:
    """Writes over q, (T, heads * D), what the texts of a group gather; k, v: (T, key_heads * D).

    prefix: keys and values of what stands before every text, (1, key_heads, P, D). For where `own_product` is to be
    had.
    """
    product = own_product()
    assert product is not None
    lists = _Lists(
        queries=q,
        keys=address(k),
        values=address(v),
        prefix_keys=0 if prefix is None else address(prefix[0]),
        prefix_values=0 if prefix is None else address(prefix[1]),
        before=0 if prefix is None else prefix[0].shape[2],
        heads=heads,
        key_heads=key_heads,
        D=q.shape[1] // heads,
        scale=scale,
        product=product,
    )
    jobs = [(block, some) for block in _blocks(rows, sight, lists.before) for some in _heads_of(block, heads)]
    with one_thread():  # a product each
        in_blocks(lambda place: lists.compute(*jobs[place.start]), len(jobs), 1)


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

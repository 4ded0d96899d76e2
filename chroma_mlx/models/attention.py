"""Attention shared by the architectures. Runs on the MLX thread only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .host import softmax

# Without a fused kernel the scores of B * N * queries * keys are held as float32. Queries are taken in
# blocks whose scores fit these bytes, so memory is bounded at any length. Smaller blocks are slower (products
# of few rows), larger ones no faster: measured 9.1, 5.8 and 6.0 s on a long text with 8, 32 and 128 MiB.
MAX_SCORE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Which tokens a token sees: itself, so many before and after it (None: all), and no padding.

    `lengths`: (B,), the tokens of each row; None where the padding stands behind all that is seen anyway.
    """

    before: int | None = None
    after: int | None = None
    lengths: npt.NDArray[np.int32] | None = None

    def keys(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """The range of the keys that any of the queries start..stop sees."""
        first = 0 if self.before is None else max(0, start - self.before)
        last = length if self.after is None else min(length, stop + self.after)
        return first, last

    def hidden(self, start: int, stop: int, first: int, last: int) -> npt.NDArray[np.bool_] | None:
        """Whether query start..stop does not see key first..last, None where all see all.

        Returns (1 or B, 1, stop - start, last - first). Padding sees itself, so that no row is hidden whole:
        the softmax of such a row is no number, and would spread.
        """
        queries, keys = np.arange(start, stop)[:, None], np.arange(first, last)[None, :]
        hidden = np.zeros((1, 1, stop - start, last - first), dtype=bool)
        if self.before is not None:
            hidden |= keys < queries - self.before
        if self.after is not None:
            hidden |= keys > queries + self.after
        if self.lengths is not None and int(self.lengths.min()) < last:
            padding = keys >= self.lengths[:, None, None]  # (B, 1, keys)
            hidden = (hidden | padding[:, None]) & (queries != keys)
        return hidden if hidden.any() else None


def attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, sight: Sight, host: bool
) -> mx.array:
    """Softmax attention.

    queries: (B, N, L, D); keys, values: (B, K, L, D) with N a multiple of K. `host` takes the exponentials
    through NumPy. Returns (B, N, L, D).
    """
    if host:
        return _in_blocks(queries * scale, keys, values, sight=sight, max_score_bytes=MAX_SCORE_BYTES)
    L = queries.shape[2]
    mask: str | mx.array | None = None
    if sight.before is None and sight.after == 0:
        mask = "causal"  # the kernel's own, without an array
    elif (hidden := sight.hidden(0, L, 0, L)) is not None:
        mask = mx.array(~hidden)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _in_blocks(queries: mx.array, keys: mx.array, values: mx.array, *, sight: Sight, max_score_bytes: int) -> mx.array:
    """The same from matrix products and a softmax. queries: (B, N, L, D), scaled. Returns (B, N, L, D)."""
    B, N, L, D = queries.shape
    K = keys.shape[1]
    block = max(1, min(L, max_score_bytes // (4 * B * N * L)))
    outputs = []
    for start in range(0, L, block):
        stop = min(start + block, L)
        # Keys that no query of the block sees are not computed.
        first, last = sight.keys(start, stop, L)
        # Heads that share keys are rows of one product: (B, K, N / K * block, D) @ (B, K, D, keys).
        rows = queries[:, :, start:stop].reshape(B, K, -1, D)
        scores = rows @ keys[:, :, first:last].swapaxes(2, 3)
        weights = softmax(scores.reshape(B, N, stop - start, -1), sight.hidden(start, stop, first, last))
        mixed = weights.reshape(B, K, -1, last - first) @ values[:, :, first:last]
        if block < L:
            mx.eval(mixed)  # otherwise the weights of every block would wait for the last
        outputs.append(mixed.reshape(B, N, stop - start, D))
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)

"""Attention shared by the architectures. Runs on the MLX thread only."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .host import softmax

# Without a fused kernel the scores of B * N * queries * keys are held as float32. Queries are taken in
# blocks whose scores fit these bytes, so memory is bounded at any length. Smaller blocks are slower (products
# of few rows), larger ones no faster: measured 9.1, 5.8 and 6.0 s on a long text with 8, 32 and 128 MiB.
MAX_SCORE_BYTES: Final = 32 * 2**20


def causal_attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, window: int | None, host: bool
) -> mx.array:
    """Softmax attention in which a token sees itself and what stands before it.

    queries: (B, N, L, D); keys, values: (B, K, L, D) with N a multiple of K. With a `window` a token sees
    that many, itself among them. `host` takes the exponentials through NumPy. Returns (B, N, L, D).
    """
    if host:
        return _in_blocks(queries * scale, keys, values, window=window, max_score_bytes=MAX_SCORE_BYTES)
    L = queries.shape[2]
    mask = "causal" if window is None else mx.array(_mask(0, L, 0, window) == 0.0)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _in_blocks(
    queries: mx.array, keys: mx.array, values: mx.array, *, window: int | None, max_score_bytes: int
) -> mx.array:
    """The same from matrix products and a softmax. queries: (B, N, L, D), scaled. Returns (B, N, L, D)."""
    B, N, L, D = queries.shape
    K = keys.shape[1]
    block = max(1, min(L, max_score_bytes // (4 * B * N * L)))
    outputs = []
    for start in range(0, L, block):
        stop = min(start + block, L)
        # A query sees no key after it, and with a window none far before it: the others are not computed.
        first = 0 if window is None else max(0, start - window + 1)
        # Heads that share keys are rows of one product: (B, K, N / K * block, D) @ (B, K, D, keys).
        rows = queries[:, :, start:stop].reshape(B, K, -1, D)
        scores = rows @ keys[:, :, first:stop].swapaxes(2, 3)
        weights = softmax(scores.reshape(B, N, stop - start, -1), _mask(start, stop, first, window))
        mixed = weights.reshape(B, K, -1, stop - first) @ values[:, :, first:stop]
        if block < L:
            mx.eval(mixed)  # otherwise the weights of every block would wait for the last
        outputs.append(mixed.reshape(B, N, stop - start, D))
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def _mask(start: int, stop: int, first: int, window: int | None) -> npt.NDArray[np.float32]:
    """0 where query start..stop sees key first..stop, -inf where not: (stop - start, stop - first)."""
    distance = np.arange(start, stop)[:, None] - np.arange(first, stop)[None, :]
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return np.where(hidden, -np.inf, 0.0).astype(np.float32)

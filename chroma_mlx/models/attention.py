"""Attention shared by the architectures. Runs on the MLX thread only."""

from __future__ import annotations

from typing import Final

import mlx.core as mx

# Without a fused kernel (on a CPU) the scores of B * N * L * keys are held as float32. Queries are taken
# in blocks whose scores fit these bytes: they then stay near the cache, and memory is bounded at any L.
MAX_SCORE_BYTES: Final = 32 * 2**20


def causal_attention(
    queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, window: int | None
) -> mx.array:
    """Softmax attention in which a token sees itself and what stands before it.

    queries: (B, N, L, D); keys, values: (B, K, L, D) with N a multiple of K. With a `window` a token sees
    that many, itself among them. Returns (B, N, L, D).
    """
    B, N, L, _ = queries.shape
    fused = mx.default_device().type == mx.DeviceType.gpu
    block = L if fused else max(1, min(L, MAX_SCORE_BYTES // (4 * B * N * L)))
    outputs = []
    for start in range(0, L, block):
        stop = min(start + block, L)
        first = 0 if window is None else max(0, start - window + 1)
        # A query sees no key after it: the keys up to the block's end are all it needs, and the causal
        # mask of MLX is aligned at the end of the keys.
        mask = "causal" if window is None else _window_mask(start, stop, first, window)
        outputs.append(
            mx.fast.scaled_dot_product_attention(
                queries[:, :, start:stop], keys[:, :, first:stop], values[:, :, first:stop], scale=scale, mask=mask
            )
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def _window_mask(start: int, stop: int, first: int, window: int) -> mx.array:
    """True where query start..stop sees key first..stop: (stop - start, stop - first)."""
    distance = mx.arange(start, stop)[:, None] - mx.arange(first, stop)[None, :]
    return mx.logical_and(distance >= 0, distance < window)

"""Hidden states to one vector a text. Runs on the MLX thread only."""

from __future__ import annotations

import mlx.core as mx


def pool(hidden: mx.array, lengths: mx.array, mode: str, skip: int = 0) -> mx.array:
    """One float32 vector a text.

    hidden: (B, L, H), right-padded; lengths: (B,) int32, each >= 1; mode: "last", "mean" or "cls".
    The first `skip` tokens (a prompt that is not to count) are left out. Returns (B, H) float32.
    """
    if mode == "last":
        return _take(hidden, lengths - 1)
    if mode == "cls":
        return _take(hidden, mx.minimum(skip, lengths - 1))
    places = mx.arange(hidden.shape[1])[None, :]  # (1, L)
    counted = mx.logical_and(places >= skip, places < lengths[:, None])  # (B, L)
    weights = counted.astype(mx.float32)
    weights = weights / mx.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    return (weights[:, None, :] @ hidden.astype(mx.float32)).squeeze(1)  # (B, 1, L) @ (B, L, H) to (B, H)


def _take(hidden: mx.array, places: mx.array) -> mx.array:
    """hidden: (B, L, H); places: (B,). Returns each row's hidden state at its place, (B, H) float32."""
    index = mx.broadcast_to(places[:, None, None], (hidden.shape[0], 1, hidden.shape[2]))  # (B, 1, H)
    return mx.take_along_axis(hidden, index, axis=1).squeeze(1).astype(mx.float32)

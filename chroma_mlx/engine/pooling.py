"""Hidden states to one vector a text. `mean` runs on the MLX thread only."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..models.batch import Ints, Rows


def wanted_tokens(lengths: Ints, mode: str, skip: int = 0) -> Ints | None:
    """The position of the token whose hidden state is each text's vector; None where all tokens make it.

    lengths: (B,), each >= 1; mode: "last", "mean" or "cls", the first behind the `skip` tokens of a prompt
    that is not to count. Returns (B,).
    """
    if mode == "last":
        return lengths - 1
    return np.minimum(skip, lengths - 1).astype(np.int32) if mode == "cls" else None


def mean(rows: Rows, hidden: mx.array, skip: int = 0) -> mx.array:
    """The mean over each text's tokens, without its first `skip`, of a group.

    hidden: (T, H), the list of all tokens, of which `rows` are the group's. Returns (G, H) float32.
    """
    own = rows.spread(hidden)  # (G, R, H)
    positions = np.arange(own.shape[1])[None, :]  # (1, R)
    counted = (positions >= skip) & (positions < rows.keys[:, None])  # (G, R)
    weights = (counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    # A row by itself, so that what is no number in one text stays there.
    return (mx.array(weights)[:, None, :] @ own.astype(mx.float32)).squeeze(1)  # (G, 1, R) @ (G, R, H) to (G, H)

"""Hidden states to one vector a text. `means` of mx.arrays is for the MLX thread."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..models.batch import Group, Ints, Rows
from ..models.host import Array


def wanted_tokens(lengths: Ints, mode: str, skip: int = 0) -> Ints | None:
    """The position of the token whose hidden state is each text's vector; None where all tokens make it.

    lengths: (B,), each >= 1; mode: "last", "mean" or "cls", the first behind the `skip` tokens of a prompt
    that is not to count. Returns (B,).
    """
    if mode == "last":
        return lengths - 1
    return np.minimum(skip, lengths - 1).astype(np.int32) if mode == "cls" else None


def means(groups: Sequence[Group], hidden: Array, skip: int = 0) -> Array:
    """The mean over each text's tokens, without its first `skip`; hidden: (T, H). Returns (B, H) float32."""
    found = [_mean(group.every, hidden, skip) for group in groups]
    return np.concatenate(found) if isinstance(hidden, np.ndarray) else mx.concatenate(found)


def _mean(rows: Rows, hidden: Array, skip: int) -> Array:
    """Of a group. Returns (G, H)."""
    own = rows.spread(hidden)  # (G, R, H)
    positions = np.arange(own.shape[1])[None, :]  # (1, R)
    counted = (positions >= skip) & (positions < rows.keys[:, None])  # (G, R)
    weights = (counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    # A row by itself, so that what is no number in one text stays there.
    weights = weights[:, None, :]  # (G, 1, R) @ (G, R, H) to (G, 1, H)
    if isinstance(own, np.ndarray):
        with np.errstate(all="ignore"):  # what is no number is found in the vectors
            return (weights @ own)[:, 0]
    return (mx.array(weights) @ own.astype(mx.float32)).squeeze(1)

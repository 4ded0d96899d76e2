"""Exponentials through NumPy, for CPUs on which MLX computes them one element at a time.

Outside of macOS, MLX's CPU backend has no vector instructions for exp and what is built on it: 12 ns an
element, so that a feed-forward's activation takes longer than its matrix products. NumPy's exp takes 1 to
3 ns. Both share the memory: an evaluated array is seen by NumPy without a copy, and may be written to
(https://ml-explore.github.io/mlx/build/html/usage/numpy.html). Runs on the MLX thread only.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

# Elements at a time, so that a pass finds what the pass before it wrote in the processor's cache.
BLOCK: Final = 128 * 1024


def softmax(scores: mx.array, mask: npt.NDArray[np.float32] | None) -> mx.array:
    """softmax over the last axis of float32 scores, (G, N, Q, S), written over them.

    mask: what is added, broadcasting: 0, or minus infinity where a key is not seen. Every row must see a key.
    """
    mx.eval(scores)
    whole = view(scores)
    heads = max(1, BLOCK // (whole[:, :1].size))
    for start in range(0, whole.shape[1], heads):
        x = whole[:, start : start + heads]
        if mask is not None:
            x += mask
        x -= x.max(axis=-1, keepdims=True)
        np.exp(x, out=x)
        x /= x.sum(axis=-1, keepdims=True)
    return scores


def view(array: mx.array) -> npt.NDArray[np.float32]:
    """The memory of an evaluated array."""
    return np.asarray(array)

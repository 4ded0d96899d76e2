"""BERT's norm, by MLX's kernel or through NumPy (see host.py). Runs on the MLX thread only."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .host import BLOCK, Floats, in_blocks, view
from .weights import Weights


class LayerNorm:
    """The layer norm whose weight and bias, (H,), stand under `path`."""

    def __init__(self, weights: Weights, path: str, eps: float) -> None:
        self.weight, self.bias, self.eps = weights.vector(f"{path}.weight"), weights.vector(f"{path}.bias"), eps
        self.host = weights.host

    def __call__(self, x: mx.array) -> mx.array:
        """x: (T, H), whose memory may be used up. Same shape."""
        if not self.host:
            return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)
        mx.eval(x)
        rows, weight, bias = view(x), view(self.weight), view(self.bias)
        in_blocks(lambda some: _norm(rows[some], weight, bias, self.eps), len(rows), max(1, BLOCK // rows.shape[1]))
        return x


def _norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> None:
    """Writes over x, (rows, H)."""
    x -= x.mean(axis=1, keepdims=True)
    scale = np.einsum("th,th->t", x, x)
    scale /= x.shape[1]
    scale += eps
    np.sqrt(scale, out=scale)
    np.reciprocal(scale, out=scale)
    x *= scale[:, None]
    x *= weight
    x += bias

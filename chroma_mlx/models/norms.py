"""Norms over the width of a token, by MLX's kernels or through NumPy, then on any thread (see host.py)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .host import BLOCK, Array, in_blocks, inverse_rms, view


class RMSNorm:
    """The norm by the root of the mean square. weight: (H,)."""

    def __init__(self, weight: mx.array, eps: float, *, host: bool) -> None:
        self.weight: Array = view(weight) if host else weight
        self.eps, self.host = eps, host

    def __call__(self, x: Array) -> Array:
        """x: (T, H). Another array of the same shape and dtype."""
        if not self.host:
            return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)
        out = np.empty_like(x)

        def job(rows: slice) -> None:
            np.multiply(x[rows], inverse_rms(x[rows], self.eps), out=out[rows])
            out[rows] *= self.weight

        in_blocks(job, len(x), max(1, BLOCK // x.shape[1]))
        return out


class LayerNorm:
    """The layer norm. weight, bias: (H,)."""

    def __init__(self, weight: mx.array, bias: mx.array, eps: float, *, host: bool) -> None:
        self.weight: Array = view(weight) if host else weight
        self.bias: Array = view(bias) if host else bias
        self.eps, self.host = eps, host

    def __call__(self, x: Array) -> Array:
        """x: (T, H), whose memory may be used up. The same shape."""
        if not self.host:
            return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)

        def job(rows: slice) -> None:
            part = x[rows]
            part -= part.mean(axis=1, keepdims=True)
            part *= inverse_rms(part, self.eps)
            part *= self.weight
            part += self.bias

        in_blocks(job, len(x), max(1, BLOCK // x.shape[1]))
        return x

"""The dense layers behind the pooling, whatever the architecture before it."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from ..checkpoint import Checkpoint
from .host import Array
from .weights import Linear, Weights


class Head:
    """The layers, made and called on the MLX thread. `width` is that of the vectors."""

    def __init__(
        self, checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], hidden_size: int, weights: Weights
    ):
        declared = checkpoint.declared.dense
        self.width = hidden_size
        self._layers: list[tuple[Linear, str]] = []
        for name, shape in shapes.items():
            if name.endswith(".weight"):
                path = name.removesuffix(".weight")
                activation = declared[len(self._layers)].activation if declared is not None else "identity"
                self._layers.append((weights.linear(path, bias=f"{path}.bias" in shapes), activation))
                self.width = shape[0]

    def __call__(self, pooled: Array) -> Array:
        """pooled: (B, H). Returns (B, width) float32."""
        host = isinstance(pooled, np.ndarray)
        pooled = pooled if host else pooled.astype(mx.float32)
        for layer, activation in self._layers:
            pooled = layer(pooled)
            if activation == "tanh":
                pooled = np.tanh(pooled) if host else mx.tanh(pooled)
        return pooled if host else pooled.astype(mx.float32)

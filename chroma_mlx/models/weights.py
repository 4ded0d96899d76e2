"""Weights in memory: loads tensors, unpacks them where the device is better served so, and multiplies.

Made on the MLX thread; layers of NumPy's arrays may be called on any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..checkpoint import Checkpoint
from ..checkpoint.quantization import Packing
from .host import Array, Floats, multiply, view


class Linear(Protocol):
    """A linear layer: x (T, columns) to (T, rows)."""

    def __call__(self, x: Array) -> Array: ...


class Matrix:
    """A dense layer. weight: (rows, columns) in the dtype of the activations; bias: (rows,) or None."""

    def __init__(self, weight: mx.array, bias: mx.array | None) -> None:
        self.weight, self.bias = weight.T, bias

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight if self.bias is None else mx.addmm(self.bias, x, self.weight)


class HostMatrix:
    """The same on a host, of NumPy's arrays."""

    def __init__(self, weight: mx.array, bias: mx.array | None) -> None:
        self.weight, self.bias = view(weight), None if bias is None else view(bias)

    def __call__(self, x: Floats) -> Floats:
        return multiply(x, self.weight, self.bias)


class PackedMatrix:
    """A quantised layer that stays packed: a GPU multiplies with it as it is."""

    def __init__(
        self,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        packing: Packing,
        bias: mx.array | None,
    ) -> None:
        self.weight, self.scales, self.biases, self.packing = weight, scales, biases, packing
        self.bias = bias  # (rows,) added to the product; `biases` are the offsets of the packing

    def __call__(self, x: mx.array) -> mx.array:
        y = mx.quantized_matmul(
            x,
            self.weight,
            scales=self.scales,
            biases=self.biases,
            transpose=True,
            group_size=self.packing.group_size,
            bits=self.packing.bits,
            mode=self.packing.mode,
        )
        return y if self.bias is None else y + self.bias


class Embedding:
    """The table of token embeddings, kept as it is stored: only the rows looked up are unpacked."""

    def __init__(
        self,
        weight: mx.array,
        scales: mx.array | None,
        biases: mx.array | None,
        packing: Packing | None,
        dtype: mx.Dtype,
        *,
        host: bool,
    ) -> None:
        self.weight, self.scales, self.biases = weight, scales, biases
        self.packing, self.dtype, self.host = packing, dtype, host

    def __call__(self, ids: mx.array) -> Array:
        """ids: (T,) int32. Returns (T, H) in the dtype of the activations."""
        rows = self.weight[ids]
        if self.packing is not None and self.scales is not None:
            biases = None if self.biases is None else self.biases[ids]
            rows = unpack(rows, self.scales[ids], biases, self.packing)
        rows = rows.astype(self.dtype)
        return np.array(rows) if self.host else rows


def unpack(weight: mx.array, scales: mx.array, biases: mx.array | None, packing: Packing) -> mx.array:
    """The dense values of packed rows. (…, columns * bits / 32) to (…, columns).

    Affine values are computed in float32: rounding them to the scales' bfloat16 would lose what the
    reference keeps.
    """
    if packing.has_biases and biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, group_size=packing.group_size, bits=packing.bits, mode=packing.mode)


class Weights:
    """The tensors of a checkpoint, taken by name, in the form that the device computes with fastest.

    With `dense` every matrix is unpacked to `dtype` when it is taken. That is right on a CPU, where MLX's
    quantised product is a scalar loop on one core and accumulates in the dtype of the activations, while
    float32 runs through the BLAS. On a GPU matrices stay packed and keep their memory advantage. With `host`, which
    wants float32 and `dense`, layers take and give NumPy's arrays (see host.py); `compiles` has MLX compile
    activations (see activations.py).
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: mx.Dtype, dense: bool, host: bool, compiles: bool) -> None:
        self.dtype, self.dense, self.host, self.compiles = dtype, dense, host, compiles
        self._quantization = checkpoint.quantization
        # What the taken tensors hold in memory.
        self.nbytes = 0
        # Lazy: the bytes of a tensor are read when it is evaluated.
        files: dict[Path, dict[str, mx.array]] = {}
        for file in checkpoint.files:
            arrays = mx.load(str(file))
            assert isinstance(arrays, dict)  # what a safetensors file gives
            files[file] = arrays
        self._tensors = {name: files[info.file][info.name] for name, info in checkpoint.tensors.items()}

    def vector(self, name: str) -> mx.array:
        """A tensor as it is, in the dtype of the activations."""
        array = self._tensors.pop(name).astype(self.dtype)
        self._settle([array])
        return array

    def linear(self, path: str, *, bias: bool = False) -> Linear:
        """A linear layer; evaluated here, so that unpacking never holds more than one matrix twice."""
        weight, scales, biases, packing = self._take(path)
        offset = self.vector(f"{path}.bias") if bias else None
        if packing is not None and scales is not None and not self.dense:
            if biases is not None:
                # The product promotes to the widest of its operands: keep the activations' dtype.
                scales, biases = scales.astype(self.dtype), biases.astype(self.dtype)
            self._settle([array for array in (weight, scales, biases) if array is not None])
            return PackedMatrix(weight, scales, biases, packing, offset)
        if packing is not None and scales is not None:
            weight = unpack(weight, scales, biases, packing)
        weight = weight.astype(self.dtype)
        self._settle([weight])
        return HostMatrix(weight, offset) if self.host else Matrix(weight, offset)

    def embedding(self, path: str) -> Embedding:
        """The table of token embeddings."""
        weight, scales, biases, packing = self._take(path)
        self._settle([array for array in (weight, scales, biases) if array is not None])
        return Embedding(weight, scales, biases, packing, self.dtype, host=self.host)

    def _settle(self, arrays: list[mx.array]) -> None:
        mx.eval(arrays)
        self.nbytes += sum(array.nbytes for array in arrays)

    def _take(self, path: str) -> tuple[mx.array, mx.array | None, mx.array | None, Packing | None]:
        weight = self._tensors.pop(f"{path}.weight")
        scales = self._tensors.pop(f"{path}.scales", None)
        biases = self._tensors.pop(f"{path}.biases", None)
        packing = self._quantization.of(path) if self._quantization and scales is not None else None
        return weight, scales, biases, packing

"""MLX's packed weights unpacked with NumPy alone: a second implementation of `mx.dequantize`.

The reference vectors of a quantised checkpoint are those of the values found here, in float32.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# float4 e2m1: the magnitudes of its eight codes; the fourth bit is the sign.
E2M1: Final = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=np.float32)


def unpack(
    words: npt.NDArray[np.uint32],
    scales: npt.NDArray[np.float32] | npt.NDArray[np.uint8],
    biases: Floats | None,
    *,
    bits: int,
    mode: str,
) -> Floats:
    """The dense values: words (rows, columns * bits / 32), scales (rows, groups). Returns (rows, columns)."""
    codes = _codes(words, bits)  # (rows, columns)
    if mode == "affine":
        assert biases is not None
        values, factors = codes.astype(np.float32), scales.astype(np.float32)
    elif mode == "nvfp4":
        values, factors = _e2m1(codes), _e4m3(scales.astype(np.uint8))
    else:  # mxfp4, mxfp8: a scale is a power of two, stored as its exponent
        values = _e2m1(codes) if mode == "mxfp4" else _e4m3(codes)
        factors = np.exp2(scales.astype(np.float32) - 127)
    grouped = values.reshape(*scales.shape, -1) * factors[..., None]  # (rows, groups, group size)
    if biases is not None:
        grouped = grouped + biases[..., None]
    return grouped.reshape(codes.shape).astype(np.float32)


def _codes(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """A row is one stream of bits, the lowest first, `bits` a value."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    places = (1 << np.arange(bits)).astype(np.uint8)
    codes: npt.NDArray[np.uint8] = (stream.reshape(len(words), -1, bits) * places).sum(axis=-1).astype(np.uint8)
    return codes


def _e2m1(codes: npt.NDArray[np.uint8]) -> Floats:
    return np.where(codes & 8, -1, 1).astype(np.float32) * E2M1[codes & 7]


def _e4m3(codes: npt.NDArray[np.uint8]) -> Floats:
    """float8 e4m3: a sign, four bits of exponent (bias 7), three of mantissa."""
    exponent, mantissa = ((codes >> 3) & 15).astype(np.float32), (codes & 7).astype(np.float32)
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * np.exp2(exponent - 7))
    return (np.where(codes & 128, -1, 1) * magnitude).astype(np.float32)

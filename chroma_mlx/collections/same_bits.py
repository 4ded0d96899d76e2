"""Vectors given to Chroma so that it gives back the very bits that are wanted.

A cosine collection keeps a vector divided by its length, and the length; what it gives back is their product, which
is off by a bit or two of the last place for one vector in seven. What it computes is known exactly, so that a vector
can be found, a bit off here and there, whose product is the one that is wanted.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# Chroma adds it to the length before it divides by it.
TINY: Final = np.float32(1e-30)
# How many float32 neighbours of a value, and of the length, are tried.
NEAREST: Final = (1, -1, 2, -2)
LENGTHS: Final = 12


def given_back(vectors: Vectors) -> Vectors:
    """What a cosine collection gives back for `vectors`, (n, dimension) float32 both."""
    return _rescaled(vectors, _lengths(vectors))


def to_give(wanted: Vectors) -> Vectors:
    """Vectors for which a cosine collection gives back `wanted`, (n, dimension) float32 both.

    A row for which none is found is as wanted itself. (Of unit vectors all are found; of others nine in ten.)
    """
    with np.errstate(all="ignore"):  # lengths beyond float32, whose rows stay as they are
        given: Vectors = wanted.copy()
        lengths = _lengths(wanted)
        open_rows = np.flatnonzero(~_equal(_rescaled(wanted, lengths), wanted))
        for step in range(2 * LENGTHS + 1):
            if not open_rows.size:
                break
            # The candidate must have the very length that it was computed for: that of the wanted vector, and others.
            shift = (step + 1) // 2 * (1 if step % 2 else -1)
            length = _neighbours(lengths[open_rows], shift)
            rows = wanted[open_rows]
            candidates = _before(rows, length)
            found = _equal(given_back(candidates), rows)
            given[open_rows[found]] = candidates[found]
            open_rows = open_rows[~found]
    return given


def _before(wanted: Vectors, lengths: Vectors) -> Vectors:
    """Values, each the wanted one or a neighbour, that rescaling by `lengths` turns into the wanted ones."""
    values: Vectors = wanted.copy()
    right = _rescaled(wanted, lengths) == wanted
    for shift in NEAREST:
        neighbours = _neighbours(wanted, shift)
        hits = ~right & (_rescaled(neighbours, lengths) == wanted)
        values[hits] = neighbours[hits]
        right |= hits
    return values


def _neighbours(values: Vectors, shift: int) -> Vectors:
    """The float32 numbers `shift` places farther from zero."""
    shifted: Vectors = (values.view(np.int32) + shift).view(np.float32)
    return shifted


def _lengths(vectors: Vectors) -> Vectors:
    """As Chroma computes them, one square after another: (n,) float32."""
    squares: Vectors = np.cumsum(vectors * vectors, axis=1, dtype=np.float32)
    lengths: Vectors = np.sqrt(squares[:, -1])
    return lengths


def _rescaled(vectors: Vectors, lengths: Vectors) -> Vectors:
    inverse = np.float32(1) / (lengths + TINY)
    scaled: Vectors = (vectors * inverse[:, None]) * lengths[:, None]
    return scaled


def _equal(one: Vectors, other: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows are the same bit for bit: (n,)."""
    rows: npt.NDArray[np.bool_] = (one.view(np.int32) == other.view(np.int32)).all(axis=1)
    return rows

"""Vectors that users provide: read into float32, and checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import InputError

# What bfloat16 makes of a unit vector is off by up to 0.4 %.
UNIT_TOLERANCE: Final = 0.01
# Chroma squares lengths in float32, which goes from 1e-38 to 3e38.
SHORTEST: Final = 1e-18
LONGEST: Final = 1e18
# Rows whose lengths are computed together: their float64 copies stay in the processor's cache.
ROWS: Final = 256


def read_vector(value: Any) -> npt.NDArray[np.float32]:
    """A vector as (dimension,) float32. Raises ValueError with what is wrong, in words."""
    if type(value) is np.ndarray and value.dtype == np.float32 and value.ndim == 1 and value.size:
        return value
    if isinstance(value, str | bytes | Mapping | Set):
        raise ValueError(f"is a {type(value).__name__}, not a list or an array of numbers")
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError("is a masked array. Fill the masked values first")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"is no array of numbers ({error}). Pass a flat list or array, all of numbers") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"holds values that are no numbers ({array.dtype}). Pass numbers, float32 at best")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"has the shape {array.shape}, not (dimension,). Pass one flat vector a record")
    with np.errstate(over="ignore"):  # what overflows is not finite, and named for it
        return array.astype(np.float32)


def vector_problems(
    vectors: Sequence[npt.NDArray[np.float32]], width: int, space: str, *, normalized: bool
) -> Iterator[tuple[int, str]]:
    """(place, what is wrong) of each vector that a collection of `width` and `space` must not hold.

    `normalized`: whether vectors are meant to be of unit length, which an `ip` space compares rightly only then.
    """
    fitting = [place for place, vector in enumerate(vectors) if vector.size == width]
    for place, vector in enumerate(vectors):
        if vector.size != width:
            yield place, f"its vector has {vector.size} dimensions, but this collection's have {width}"
    for start in range(0, len(fitting), ROWS):
        places = fitting[start : start + ROWS]
        rows = np.array([vectors[place] for place in places], dtype=np.float64)  # (ROWS, width)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        comparable = (lengths >= SHORTEST) & (lengths <= LONGEST)
        for row in np.flatnonzero(~comparable):
            yield places[row], _not_comparable(rows[row], lengths[row])
        if space == "ip" and normalized:
            unit = np.abs(lengths - 1.0) <= UNIT_TOLERANCE
            for row in np.flatnonzero(~unit & comparable):
                yield (
                    places[row],
                    f"its vector has the length {lengths[row]:.4g}, and in this collection's space, ip, only vectors "
                    "of length 1 compare by direction. Divide it by its length, or set `normalize: false` if lengths "
                    "are meant to count",
                )


def check_query_vectors(vectors: Sequence[npt.NDArray[np.float32]]) -> None:
    """Raises InputError for a query vector that is not finite or has no direction."""
    for place, vector in enumerate(vectors):
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not SHORTEST <= length <= LONGEST:
            what = "zero" if length == 0.0 else f"of length {length:.3g}" if np.isfinite(length) else "not finite"
            raise InputError(f"Query vector {place} is {what}, so nothing is near it. Make it again.", index=place)


def _not_comparable(row: npt.NDArray[np.float64], length: float) -> str:
    bad = np.flatnonzero(~np.isfinite(row))
    if bad.size:
        return f"its vector holds {row[bad[0]]} at position {bad[0]}, as float32. Every value must be finite"
    if length == 0.0:
        return "its vector is zero, so it has no direction. A failed embedding often looks so; make it again"
    return (
        f"its vector has the length {length:.3g}, whose square float32 cannot hold, so that Chroma would compare it as "
        f"zero or as no number. Scale it to a length between {SHORTEST:g} and {LONGEST:g}"
    )

"""Whether stored records are those of a file, apart from what Chroma itself rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..pages import Page

# What a cosine collection's own rounding of a value is at most, as a part of the vector's largest value.
ROUNDING: Final = 1e-6
# Chroma may change the last bit of a metadata value of 16 digits or more.
FLOAT_ROUNDING: Final = 1e-15


def same_records(given: Page, stored: Page, *, rounded: bool) -> npt.NDArray[np.bool_]:
    """Which records of two pages, in one order, are the same: (n,). `rounded`: whether Chroma rounds the vectors."""
    same = same_vectors(given.embeddings, stored.embeddings, rounded=rounded)
    rest = zip(
        zip(given.documents, given.uris, given.metadatas, strict=True),
        zip(stored.documents, stored.uris, stored.metadatas, strict=True),
        strict=True,
    )
    for place, ((document, uri, metadata), (other_document, other_uri, other_metadata)) in enumerate(rest):
        same[place] &= (document, uri) == (other_document, other_uri) and _same_metadata(metadata, other_metadata)
    return same


def same_vectors(
    given: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], *, rounded: bool
) -> npt.NDArray[np.bool_]:
    """Which rows are the same, (n,): bit for bit, or `rounded` as a cosine collection rounds them."""
    if given.shape != stored.shape:
        return np.zeros(len(given), dtype=np.bool_)
    same: npt.NDArray[np.bool_] = (given.view(np.int32) == stored.view(np.int32)).all(axis=1)
    if rounded:
        apart = np.abs(given.astype(np.float64) - stored).max(axis=1, initial=0.0)
        same |= apart <= ROUNDING * np.abs(given).max(axis=1, initial=0.0)
    return same


def _same_metadata(given: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> bool:
    one, other = given or {}, stored or {}
    return one.keys() == other.keys() and all(_same_value(value, other[key]) for key, value in one.items())


def _same_value(given: Any, stored: Any) -> bool:
    if type(given) is not type(stored):  # 1, 1.0 and True are equal to Python
        return False
    if isinstance(given, float):
        return math.isclose(given, stored, rel_tol=FLOAT_ROUNDING)
    if isinstance(given, list):
        return len(given) == len(stored) and all(map(_same_value, given, stored))
    return bool(given == stored)

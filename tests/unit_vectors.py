"""Vectors for tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def unit_vectors(count: int, dimension: int = 8, seed: int = 0) -> npt.NDArray[np.float32]:
    """(count, dimension) float32, of unit length, always the same."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

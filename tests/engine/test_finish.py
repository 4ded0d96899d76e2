"""The one door that vectors leave by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chroma_mlx.engine.encoder import finish
from chroma_mlx.errors import EngineError


@given(st.integers(1, 12), st.floats(1e-3, 1e6))
def test_a_vector_is_cut_and_then_has_unit_length(dimension: int, size: float) -> None:
    raw = (np.random.default_rng(0).standard_normal((5, 12)) * size).astype(np.float32)
    vectors = finish(raw, dimension, True, range(5))
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, dimension)
    want = raw[:, :dimension] / np.linalg.norm(raw[:, :dimension].astype(np.float64), axis=1, keepdims=True)
    worst = float(np.abs(vectors - want).max())
    assert worst < 1e-6, f"differs by {worst:.1e}"


def test_without_normalising_a_vector_is_only_cut() -> None:
    raw = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(finish(raw, 4, False, [0, 1]), raw[:, :4])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_its_text_named(value: float, normalize: bool) -> None:
    raw = np.ones((3, 4), dtype=np.float32)
    raw[1, 2] = value
    with pytest.raises(EngineError, match="The model gave text 41 a vector that is not finite, so nothing"):
        finish(raw, 4, normalize, [40, 41, 42])


def test_a_zero_vector_has_no_direction_to_normalise() -> None:
    raw = np.ones((3, 4), dtype=np.float32)
    raw[2, :3] = 0  # zero only after it is cut
    with pytest.raises(EngineError, match="The model gave text 9 a vector that is zero"):
        finish(raw, 3, True, [7, 8, 9])
    assert not finish(raw, 3, False, [7, 8, 9])[2].any()


def test_large_finite_values_are_not_taken_for_an_overflow() -> None:
    raw = np.full((1, 4), 1e30, dtype=np.float32)  # its square is no float32
    vectors = finish(raw, 4, True, [0])
    worst = float(np.abs(vectors - 0.5).max())
    assert worst < 1e-6, f"differs by {worst:.1e}"


def test_small_values_are_not_taken_for_zero() -> None:
    raw = np.full((1, 4), 1e-30, dtype=np.float32)
    vectors = finish(raw, 4, True, [0])
    worst = float(np.abs(vectors - 0.5).max())
    assert worst < 1e-6, f"differs by {worst:.1e}"

"""Pooling against NumPy, row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from chroma_mlx.engine.mlx_thread import mlx_thread

Floats = npt.NDArray[np.float32]

LENGTHS = [1, 7, 3, 9]


def pool(hidden: Floats, mode: str, skip: int, dtype: str = "float32") -> Floats:
    """On the MLX thread."""
    import mlx.core as mx

    from chroma_mlx.engine.pooling import pool as pool_arrays

    lengths = mx.array(np.array(LENGTHS, dtype=np.int32))
    return np.array(pool_arrays(mx.array(hidden).astype(getattr(mx, dtype)), lengths, mode, skip))


def expected(hidden: Floats, mode: str) -> Floats:
    rows = []
    for row, length in zip(hidden, LENGTHS, strict=True):
        rows.append({"last": row[length - 1], "cls": row[0], "mean": row[:length].mean(axis=0)}[mode])
    return np.stack(rows)


@pytest.mark.parametrize("mode", ["last", "mean", "cls"])
def test_pooling_takes_the_real_tokens_alone(mode: str) -> None:
    hidden = np.random.default_rng(1).standard_normal((4, 9, 5)).astype(np.float32)
    worst = float(np.abs(mlx_thread.run(pool, hidden, mode, 0) - expected(hidden, mode)).max())
    assert worst < 1e-6, f"{mode}: differs by {worst:.1e}"


@pytest.mark.parametrize("mode", ["last", "mean", "cls"])
def test_what_stands_at_the_padding_changes_nothing(mode: str) -> None:
    hidden = np.random.default_rng(2).standard_normal((4, 9, 5)).astype(np.float32)
    loud = hidden.copy()
    for row, length in enumerate(LENGTHS):
        loud[row, length:] = 1e30
    np.testing.assert_array_equal(mlx_thread.run(pool, loud, mode, 0), mlx_thread.run(pool, hidden, mode, 0))


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_skipped_tokens_are_left_out(mode: str) -> None:
    hidden = np.random.default_rng(3).standard_normal((4, 9, 5)).astype(np.float32)
    got = mlx_thread.run(pool, hidden, mode, 2)[1:]  # the first text is shorter than what is skipped
    want = [
        row[2] if mode == "cls" else row[2:length].mean(axis=0)
        for row, length in zip(hidden[1:], LENGTHS[1:], strict=True)
    ]
    worst = float(np.abs(got - np.stack(want)).max())
    assert worst < 1e-6, f"{mode}: differs by {worst:.1e}"


def test_the_last_token_is_taken_whatever_is_skipped() -> None:
    hidden = np.random.default_rng(4).standard_normal((4, 9, 5)).astype(np.float32)
    np.testing.assert_array_equal(mlx_thread.run(pool, hidden, "last", 5), mlx_thread.run(pool, hidden, "last", 0))


def test_a_mean_of_half_precision_is_summed_in_float32() -> None:
    hidden = np.full((4, 9, 2), 60_000, dtype=np.float32)  # twice that is no float16
    got = mlx_thread.run(pool, hidden, "mean", 0, "float16")
    assert got.dtype == np.float32
    worst = float(np.abs(got - np.float32(np.float16(60_000))).max())
    assert worst < 0.1, f"differs by {worst:.1e}"

"""Pooling against NumPy, row by row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from chroma_mlx.engine.mlx_thread import mlx_thread

Floats = npt.NDArray[np.float32]

LENGTHS = [1, 7, 3, 9]
TOKENS = sum(LENGTHS)


def pool(hidden: Floats, mode: str, skip: int, dtype: str = "float32", padding: int = 100) -> Floats:
    """On the MLX thread. hidden: (T, H), text after text."""
    import mlx.core as mx

    from chroma_mlx.engine.pooling import means, wanted_tokens
    from chroma_mlx.models.batch import make_batch

    places = wanted_tokens(np.array(LENGTHS, dtype=np.int32), mode, skip)
    batch = make_batch([np.zeros(length, dtype=np.int32) for length in LENGTHS], padding=padding, wanted=places)
    array = hidden if dtype == "host" else mx.array(hidden).astype(getattr(mx, dtype))
    if places is not None:
        return np.array(batch.take(array, last=True), dtype=np.float32)
    return np.array(means(batch.groups, array, skip))


def texts_of(hidden: Floats) -> list[Floats]:
    return np.split(hidden, np.cumsum(LENGTHS)[:-1])


def random_hidden(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((TOKENS, 5)).astype(np.float32)


@pytest.mark.parametrize("padding", [0, 4, 100])
@pytest.mark.parametrize("mode", ["last", "mean", "cls"])
@pytest.mark.parametrize("dtype", ["float32", "host"])
def test_pooling_takes_each_texts_own_tokens(dtype: str, mode: str, padding: int) -> None:
    hidden = random_hidden(1)
    expected = [{"last": text[-1], "cls": text[0], "mean": text.mean(axis=0)}[mode] for text in texts_of(hidden)]
    worst = float(np.abs(mlx_thread.run(pool, hidden, mode, 0, dtype, padding=padding) - np.stack(expected)).max())
    assert worst < 1e-6, f"{mode}: differs by {worst:.1e}"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("dtype", ["float32", "host"])
def test_what_is_no_number_in_one_text_stays_there(dtype: str, bad: float) -> None:
    hidden = random_hidden(2)
    loud = hidden.copy()
    loud[1:8] = bad  # the second text
    others = [0, 2, 3]
    got, want = (mlx_thread.run(pool, each, "mean", 0, dtype) for each in (loud, hidden))
    np.testing.assert_array_equal(got[others], want[others])


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_skipped_tokens_are_left_out(mode: str) -> None:
    hidden = random_hidden(3)
    got = mlx_thread.run(pool, hidden, mode, 2)[1:]  # the first text is shorter than what is skipped
    want = [text[2] if mode == "cls" else text[2:].mean(axis=0) for text in texts_of(hidden)[1:]]
    worst = float(np.abs(got - np.stack(want)).max())
    assert worst < 1e-6, f"{mode}: differs by {worst:.1e}"


def test_the_last_token_is_taken_whatever_is_skipped() -> None:
    hidden = random_hidden(4)
    np.testing.assert_array_equal(mlx_thread.run(pool, hidden, "last", 5), mlx_thread.run(pool, hidden, "last", 0))


def test_a_mean_of_half_precision_is_summed_in_float32() -> None:
    hidden = np.full((TOKENS, 2), 60_000, dtype=np.float32)  # twice that is no float16
    got = mlx_thread.run(pool, hidden, "mean", 0, "float16")
    assert got.dtype == np.float32
    worst = float(np.abs(got - np.float32(np.float16(60_000))).max())
    assert worst < 0.1, f"differs by {worst:.1e}"

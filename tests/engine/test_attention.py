"""Attention in blocks and with windows, against NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from chroma_mlx.engine.mlx_thread import mlx_thread

Floats = npt.NDArray[np.float32]

B, N, K, L, D = 2, 6, 2, 37, 8


def expected(queries: Floats, keys: Floats, values: Floats, window: int | None) -> Floats:
    """Softmax over the visible keys in float64, a query at a time."""
    mixed = np.zeros(queries.shape)
    for b, n, place in np.ndindex(B, N, L):
        first = 0 if window is None else max(0, place - window + 1)
        seen = slice(first, place + 1)
        head = n // (N // K)
        scores = keys[b, head, seen].astype(np.float64) @ queries[b, n, place] * D**-0.5
        weights = np.exp(scores - scores.max())
        mixed[b, n, place] = weights @ values[b, head, seen] / weights.sum()
    return mixed.astype(np.float32)


def attend(queries: Floats, keys: Floats, values: Floats, window: int | None, host: bool) -> Floats:
    """On the MLX thread."""
    import mlx.core as mx

    from chroma_mlx.models.attention import causal_attention

    with mx.stream(mx.Device(mx.DeviceType.cpu)):
        arrays = (mx.array(queries), mx.array(keys), mx.array(values))
        return np.array(causal_attention(*arrays, scale=D**-0.5, window=window, host=host))


def random_arrays() -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(0)
    queries = (3 * rng.standard_normal((B, N, L, D))).astype(np.float32)
    keys, values = (rng.standard_normal((B, K, L, D)).astype(np.float32) for _ in range(2))
    return queries, keys, values


@pytest.mark.parametrize("host", [True, False], ids=["host", "fused"])
@pytest.mark.parametrize("window", [None, 1, 2, 5, L - 1, L, 4 * L])
def test_a_token_sees_itself_and_those_before_it_in_its_window(window: int | None, host: bool) -> None:
    arrays = random_arrays()
    worst = float(np.abs(mlx_thread.run(attend, *arrays, window, host) - expected(*arrays, window)).max())
    assert worst < 1e-5, f"window {window}: differs by {worst:.1e}"


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block", [1, 2, 5, 16, 36, 37, 1000])
def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int, window: int | None) -> None:
    from chroma_mlx.models import attention

    arrays = random_arrays()
    monkeypatch.setattr(attention, "MAX_SCORE_BYTES", 4 * B * N * L * block)
    worst = float(np.abs(mlx_thread.run(attend, *arrays, window, True) - expected(*arrays, window)).max())
    assert worst < 1e-5, f"blocks of {block}: differs by {worst:.1e}"


def test_a_block_is_never_empty_however_little_memory_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    from chroma_mlx.models import attention

    arrays = random_arrays()
    monkeypatch.setattr(attention, "MAX_SCORE_BYTES", 1)
    assert np.isfinite(mlx_thread.run(attend, *arrays, None, True)).all()


def test_large_scores_overflow_nothing() -> None:
    queries, keys, values = random_arrays()
    arrays = (1e4 * queries, keys, values)
    worst = float(np.abs(mlx_thread.run(attend, *arrays, None, True) - expected(*arrays, None)).max())
    assert worst < 1e-4, f"differs by {worst:.1e}"

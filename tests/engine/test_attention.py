"""Attention in blocks and with windows, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from chroma_mlx.engine.mlx_thread import mlx_thread

Floats = npt.NDArray[np.float32]

B, N, K, L, D = 2, 6, 2, 37, 8
ALL = 10**6
WHOLE = [L, L]


def expected(queries: Floats, keys: Floats, values: Floats, before: int, after: int, lengths: list[int]) -> Floats:
    """Softmax over the visible keys in float64, a query at a time; padding is left at zero."""
    mixed = np.zeros(queries.shape)
    for b, n, place in np.ndindex(B, N, L):
        if place >= lengths[b]:
            continue
        seen = slice(max(0, place - before), min(lengths[b], place + after + 1))
        head = n // (N // K)
        scores = keys[b, head, seen].astype(np.float64) @ queries[b, n, place] * D**-0.5
        weights = np.exp(scores - scores.max())
        mixed[b, n, place] = weights @ values[b, head, seen] / weights.sum()
    return mixed.astype(np.float32)


def of_group(queries: Floats, keys: Floats, values: Floats, *, sight: Any, rows: Any, host: bool) -> Floats:
    """Through NumPy, or by MLX's kernel."""
    import mlx.core as mx

    from chroma_mlx.models.attention import attention
    from chroma_mlx.models.host_attention import attend_in_rows

    how: dict[str, Any] = {"scale": D**-0.5, "sight": sight, "rows": rows}
    if host:
        return attend_in_rows(queries, keys, values, **how)
    return np.array(attention(mx.array(queries), mx.array(keys), mx.array(values), **how))


def attend(
    queries: Floats, keys: Floats, values: Floats, before: int, after: int, lengths: list[int], host: bool
) -> Floats:
    """On the MLX thread; ALL is no limit. What stands at the padding is set to zero, if it is a number at all."""
    import mlx.core as mx

    from chroma_mlx.models.batch import Rows
    from chroma_mlx.models.sight import Sight

    tokens = np.array(lengths, dtype=np.int32)
    rows = Rows(0, np.zeros_like(tokens), np.full_like(tokens, L), tokens)
    sight = Sight(before=None if before == ALL else before, after=None if after == ALL else after)
    with mx.stream(mx.Device(mx.DeviceType.cpu)):
        mixed = of_group(queries, keys, values, sight=sight, rows=rows, host=host)
        again = of_group(queries, keys, values, sight=sight, rows=rows, host=host)
    np.testing.assert_array_equal(mixed, again)  # by masks that were kept
    assert np.isfinite(mixed).all()
    real = np.arange(L)[None, None, :, None] < tokens[:, None, None, None]
    return np.where(real, mixed, 0.0).astype(np.float32)


def attend_from(
    queries: Floats, keys: Floats, values: Floats, before: int, after: int, places: list[int], host: bool
) -> Floats:
    """On the MLX thread: the queries of one place in each row alone, (B, N, D), with whole rows of keys."""
    import mlx.core as mx

    from chroma_mlx.models.batch import Rows
    from chroma_mlx.models.sight import Sight

    first = np.array(places, dtype=np.int32)
    rows = Rows(0, first, np.ones_like(first), np.full_like(first, L))
    sight = Sight(before=None if before == ALL else before, after=None if after == ALL else after)
    chosen = np.stack([queries[row, :, place : place + 1] for row, place in enumerate(places)])
    with mx.stream(mx.Device(mx.DeviceType.cpu)):
        return of_group(chosen, keys, values, sight=sight, rows=rows, host=host)[:, :, 0]


def distance(arrays: tuple[Floats, Floats, Floats], before: int, after: int, lengths: list[int], host: bool) -> float:
    got = mlx_thread.run(attend, *arrays, before, after, lengths, host)
    return float(np.abs(got - expected(*arrays, before, after, lengths)).max())


def random_arrays() -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(0)
    queries = (3 * rng.standard_normal((B, N, L, D))).astype(np.float32)
    keys, values = (rng.standard_normal((B, K, L, D)).astype(np.float32) for _ in range(2))
    return queries, keys, values


@pytest.mark.parametrize("host", [True, False], ids=["host", "fused"])
@pytest.mark.parametrize("window", [ALL, 0, 1, 4, L - 2, L - 1, 4 * L])
def test_a_causal_token_sees_itself_and_those_before_it_in_its_window(window: int, host: bool) -> None:
    worst = distance(random_arrays(), window, 0, WHOLE, host)
    assert worst < 1e-5, f"window {window}: differs by {worst:.1e}"


@pytest.mark.parametrize("host", [True, False], ids=["host", "fused"])
@pytest.mark.parametrize("lengths", [WHOLE, [L, 1], [20, 31]], ids=str)
@pytest.mark.parametrize("reach", [ALL, 0, 3, L])
def test_a_bidirectional_token_sees_as_far_to_both_sides_and_no_padding(
    reach: int, lengths: list[int], host: bool
) -> None:
    worst = distance(random_arrays(), reach, reach, lengths, host)
    assert worst < 1e-5, f"reach {reach} of {lengths}: differs by {worst:.1e}"


@pytest.mark.parametrize("host", [True, False], ids=["host", "fused"])
@pytest.mark.parametrize(("before", "after"), [(ALL, 0), (3, 0), (ALL, ALL), (4, 4)])
@pytest.mark.parametrize("places", [[L - 1, L - 1], [0, 0], [5, 30], [L - 1, 2]], ids=str)
def test_a_single_query_gets_what_it_gets_among_all(places: list[int], before: int, after: int, host: bool) -> None:
    arrays = random_arrays()
    everything = expected(*arrays, before, after, WHOLE)
    want = np.stack([everything[row, :, place] for row, place in enumerate(places)])
    worst = float(np.abs(mlx_thread.run(attend_from, *arrays, before, after, places, host) - want).max())
    assert worst < 1e-5, f"differs by {worst:.1e}"


def test_masks_too_large_to_be_kept_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from chroma_mlx.models import batch

    monkeypatch.setattr(batch, "KEPT_MASK_BYTES", 10)
    assert distance(random_arrays(), 4, 4, [L, 9], host=True) < 1e-5


@pytest.mark.parametrize(
    ("before", "after", "lengths"), [(ALL, 0, WHOLE), (2, 0, WHOLE), (4, 4, [L, 9]), (ALL, ALL, [5, L])]
)
@pytest.mark.parametrize("block", [1, 2, 5, 16, 36, 37, 1000])
def test_blocks_of_queries_change_nothing(
    monkeypatch: pytest.MonkeyPatch, block: int, before: int, after: int, lengths: list[int]
) -> None:
    from chroma_mlx.models import host_attention

    monkeypatch.setattr(host_attention, "MAX_SCORE_BYTES", 4 * B * N * L * block)
    worst = distance(random_arrays(), before, after, lengths, host=True)
    assert worst < 1e-5, f"blocks of {block}: differs by {worst:.1e}"


@pytest.mark.parametrize("block", [1, 7, 36, 37])
def test_no_block_has_more_queries_than_it_may(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    from chroma_mlx.models import host_attention

    asked: list[int] = []
    softmax = host_attention.softmax

    def counted(scores: Any, mask: Any) -> None:
        asked.append(scores.shape[2])
        softmax(scores, mask)

    monkeypatch.setattr(host_attention, "QUERIES", block)
    monkeypatch.setattr(host_attention, "softmax", counted)
    assert distance(random_arrays(), ALL, 0, WHOLE, host=True) < 1e-5
    assert max(asked) == block


def test_a_block_is_never_empty_however_little_memory_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    from chroma_mlx.models import host_attention

    monkeypatch.setattr(host_attention, "MAX_SCORE_BYTES", 1)
    assert distance(random_arrays(), ALL, 0, WHOLE, host=True) < 1e-5


def test_large_scores_overflow_nothing() -> None:
    queries, keys, values = random_arrays()
    worst = distance((1e4 * queries, keys, values), ALL, 0, WHOLE, host=True)
    assert worst < 1e-4, f"differs by {worst:.1e}"

"""The plan of batches: pure, so it is tested without a model."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from chroma_mlx.engine.batching import plan_batches

LENGTHS = st.lists(st.integers(1, 600), max_size=80)
SIZES = st.integers(1, 40)
BUDGETS = st.integers(1, 5_000)


@given(LENGTHS, SIZES, BUDGETS)
def test_every_index_is_in_exactly_one_batch(lengths: list[int], size: int, tokens: int) -> None:
    batches = plan_batches(lengths, batch_size=size, batch_tokens=tokens)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, SIZES, BUDGETS)
def test_a_batch_keeps_both_budgets(lengths: list[int], size: int, tokens: int) -> None:
    for batch in plan_batches(lengths, batch_size=size, batch_tokens=tokens):
        total = sum(lengths[index] for index in batch)
        assert len(batch) <= size
        assert len(batch) == 1 or total <= tokens, f"{total} tokens"


@given(LENGTHS, SIZES, BUDGETS)
def test_the_longest_texts_come_first(lengths: list[int], size: int, tokens: int) -> None:
    batches = plan_batches(lengths, batch_size=size, batch_tokens=tokens)
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, SIZES, BUDGETS)
def test_a_batch_ends_only_where_the_next_text_does_not_fit(lengths: list[int], size: int, tokens: int) -> None:
    batches = plan_batches(lengths, batch_size=size, batch_tokens=tokens)
    for batch, following in itertools.pairwise(batches):
        total = sum(lengths[index] for index in [*batch, following[0]])
        assert len(batch) == size or total > tokens


def test_equal_lengths_fill_a_batch_in_the_order_of_the_call() -> None:
    assert plan_batches([7] * 5, batch_size=2, batch_tokens=100) == [[0, 1], [2, 3], [4]]


def test_a_text_beyond_the_budget_is_a_batch_of_its_own() -> None:
    assert plan_batches([5, 900, 5], batch_size=8, batch_tokens=100) == [[1], [0, 2]]


def test_no_text_is_no_batch() -> None:
    assert plan_batches([], batch_size=8, batch_tokens=100) == []

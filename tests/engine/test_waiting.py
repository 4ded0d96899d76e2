"""What waits for a pass: what shares one, when it begins, who goes first, what the bounds let in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chroma_mlx.engine.waiting import DOCUMENT_TURN, LOOK_BEYOND, Kind, Piece, Waiting, Work


def piece(
    tokens: int = 10, *, kind: Kind = "document", key: str = "a", arrived: float = 0.0, call: int = 0, **others: Any
) -> Piece:
    work = Work(
        key=key,
        kind=kind,
        rows=[np.zeros(tokens, dtype=np.int32)],
        tokens=tokens,
        run=lambda rows: np.zeros((len(rows), 1), dtype=np.float32),
        most_texts=4,
        most_tokens=100,
    )
    return Piece(**{"work": work, "arrived": arrived, "call": call, "linger_s": 1.0, **others})


def waiting(*pieces: Piece) -> Waiting:
    made = Waiting()
    for each in pieces:
        made.put(each)
    return made


def test_pieces_of_one_key_and_kind_share_a_pass_up_to_its_size() -> None:
    pieces = [piece(call=call) for call in range(6)]
    made = waiting(*pieces)
    assert made.take() == pieces[:4]
    assert made.take() == pieces[4:]
    assert made.take() == []


def test_tokens_bound_a_pass_and_a_smaller_piece_behind_fills_it() -> None:
    first, large, small = piece(60), piece(60), piece(40)
    made = waiting(first, large, small)
    assert made.take() == [first, small]
    assert made.take() == [large]


def test_a_piece_beyond_every_bound_has_a_pass_of_its_own() -> None:
    large, small = piece(1000), piece(1)
    made = waiting(large, small)
    assert made.take() == [large]
    assert made.take() == [small]


@pytest.mark.parametrize("other", [{"key": "b"}, {"kind": "query"}])
def test_what_differs_shares_no_pass(other: dict[str, Any]) -> None:
    made = waiting(piece(), piece(**other))
    assert [len(made.take()), len(made.take()), len(made.take())] == [1, 1, 0]


def test_queries_go_first_and_documents_keep_their_turn() -> None:
    queries, documents = [piece(kind="query", key=str(n)) for n in range(9)], [piece(key=str(n)) for n in range(3)]
    made = waiting(*documents, *queries)
    order = [made.take()[0].work.kind for _ in range(12)]
    assert order == (["query"] * (DOCUMENT_TURN - 1) + ["document"]) * 3


def test_documents_that_just_came_do_not_go_before_queries() -> None:
    made = waiting(*(piece(kind="query", key=str(n)) for n in range(20)))
    for _ in range(10):
        made.take()
    made.put(piece())
    assert made.take()[0].work.kind == "query"


def test_texts_and_tokens_are_counted_in_and_out() -> None:
    last = piece(30)
    made = waiting(piece(10), piece(20, kind="query"), last)
    assert (made.texts.total(), made.tokens.total(), len(made)) == (3, 60, 3)
    assert made.remove(last)
    assert not made.remove(last)
    assert (made.texts.total(), made.tokens.total(), len(made)) == (2, 30, 2)
    made.take()
    made.take()
    assert (made.texts.total(), made.tokens.total(), len(made)) == (0, 0, 0)


def test_what_nobody_waits_for_any_more_is_taken_out() -> None:
    never, early, late = piece(), piece(deadline=5.0), piece(deadline=9.0)
    made = waiting(never, late, early)
    assert made.expired(4.9) == []
    assert made.expired(5.0) == [early]
    assert made.expired(8.9) == []
    assert made.expired(9.5) == [late]
    assert made.clear() == [never]
    assert (made.texts.total(), made.tokens.total(), len(made)) == (0, 0, 0)


@pytest.mark.parametrize(("tokens", "fits"), [(30, True), (31, False)])
def test_the_bound_of_tokens_lets_in_what_fits(tokens: int, fits: bool) -> None:
    assert waiting(piece(20)).has_room(piece(tokens), max_texts=3, max_tokens=50) is fits


def test_the_bound_of_texts_lets_in_what_fits_and_anything_when_nothing_waits() -> None:
    made = waiting(piece(), piece())
    assert made.has_room(piece(), max_texts=3, max_tokens=50)
    made.put(piece())
    assert not made.has_room(piece(), max_texts=3, max_tokens=50)
    assert Waiting().has_room(piece(1000), max_texts=3, max_tokens=50)


def test_documents_take_no_room_of_queries() -> None:
    made = waiting(*(piece() for _ in range(3)))
    assert not made.has_room(piece(), max_texts=3, max_tokens=50)
    assert made.has_room(piece(kind="query"), max_texts=3, max_tokens=50)


def test_the_first_piece_says_how_long_its_pass_waits() -> None:
    made = waiting(piece(arrived=5.0, linger_s=0.0), piece(arrived=5.0, linger_s=9.0))
    assert made.start_at(free_since=4.0, calls=2) == 5.0


def test_many_pieces_of_another_model_are_not_all_looked_at() -> None:
    made = waiting(piece(), *(piece(key="b") for _ in range(LOOK_BEYOND)), piece())
    assert len(made.take()) == 1


def test_a_pass_begins_at_once_for_a_piece_that_came_to_an_idle_engine() -> None:
    made = waiting(piece(arrived=5.0, at_once=True))
    assert made.start_at(free_since=4.0, calls=9) == 5.0


def test_an_engine_that_became_free_waits_for_other_callers() -> None:
    made = waiting(piece(arrived=5.0))
    assert made.start_at(free_since=7.0, calls=2) == 8.0
    assert made.start_at(free_since=4.0, calls=2) == 6.0


def test_it_waits_no_longer_when_every_caller_is_there_or_the_pass_is_full() -> None:
    made = waiting(piece(arrived=5.0, call=1), piece(arrived=5.5, call=2))
    assert made.start_at(free_since=7.0, calls=2) == 5.0
    assert made.start_at(free_since=7.0, calls=3) == 8.0
    made.put(piece(call=1))
    made.put(piece(call=2))
    assert made.start_at(free_since=7.0, calls=3) == 5.0
    assert waiting(piece(100, arrived=5.0)).start_at(free_since=7.0, calls=3) == 5.0


def test_nothing_waiting_begins_nothing() -> None:
    assert Waiting().start_at(free_since=0.0, calls=3) is None

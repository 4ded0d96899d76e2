"""The demo's questions: that the corpus answers them, and how hits are counted."""

from __future__ import annotations

import pytest

from chroma_mlx.demo.corpus import read_passages
from chroma_mlx.demo.questions import DEMO_QUESTIONS, Question, hit_at_k, load_questions

WITH = Question(text="What closes my file?", answers=("topic:with", "doc:contextlib.closing#2"))
ZIP = Question(text="How do I pair two lists?", answers=("doc:zip",))


@pytest.fixture(scope="module")
def passage_ids() -> list[str]:
    return [passage.id for passage in read_passages()]


BOTH = pytest.mark.parametrize("reworded", [False, True], ids=["plain", "reworded"])


@BOTH
def test_there_are_forty_different_questions(reworded: bool) -> None:
    assert len({question.text for question in load_questions(reworded=reworded)}) == 40


@BOTH
def test_every_question_has_an_answer_in_the_corpus_of_this_python(reworded: bool, passage_ids: list[str]) -> None:
    for question in load_questions(reworded=reworded):
        assert any(question.is_answered_by(passage_id) for passage_id in passage_ids), question.text


@BOTH
def test_no_question_lists_an_answer_twice(reworded: bool) -> None:
    for question in load_questions(reworded=reworded):
        assert len(set(question.answers)) == len(question.answers), question.text


@BOTH
def test_the_manual_answers_a_third_of_the_questions_or_more(reworded: bool) -> None:
    asked = load_questions(reworded=reworded)
    from_manual = [q for q in asked if any(answer.startswith("topic:") for answer in q.answers)]
    assert 13 <= len(from_manual) <= 27


def test_no_question_is_in_two_sets() -> None:
    plain, reworded = ({q.text for q in load_questions(reworded=flag)} for flag in (False, True))
    assert len(set(DEMO_QUESTIONS)) == 6
    assert not plain & reworded
    assert not set(DEMO_QUESTIONS) & (plain | reworded)


@pytest.mark.parametrize("passage_id", ["topic:with", "topic:with#3", "doc:contextlib.closing#2"])
def test_an_answer_covers_its_parts(passage_id: str) -> None:
    assert WITH.is_answered_by(passage_id)


@pytest.mark.parametrize("passage_id", ["topic:without", "topic:with.a", "topic:with/a", "doc:zip#1"])
def test_an_answer_covers_no_other_name_that_starts_alike(passage_id: str) -> None:
    assert not WITH.is_answered_by(passage_id)


def test_an_answer_with_a_number_is_that_part_alone() -> None:
    assert WITH.is_answered_by("doc:contextlib.closing#2")
    assert not WITH.is_answered_by("doc:contextlib.closing#1")


def test_a_hit_counts_only_among_the_first_k() -> None:
    ranked = [["doc:a", "topic:with#1"], ["doc:zip", "doc:a"]]
    assert hit_at_k(ranked, 1, [WITH, ZIP]) == 0.5
    assert hit_at_k(ranked, 2, [WITH, ZIP]) == 1.0


def test_two_answers_of_one_question_count_once() -> None:
    assert hit_at_k([["topic:with#1", "topic:with#2"], []], 2, [WITH, ZIP]) == 0.5


def test_the_measured_questions_are_asked_where_none_are_given() -> None:
    perfect = [question.answers for question in load_questions()]
    assert hit_at_k(perfect, 1) == 1.0


def test_a_missing_ranking_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 rankings for 2 questions"):
        hit_at_k([["doc:zip"]], 1, [WITH, ZIP])


def test_a_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        hit_at_k([["doc:zip"]], 0, [ZIP])

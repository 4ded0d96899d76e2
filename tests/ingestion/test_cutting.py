"""Cutting: every word is in a passage, none is too long, neighbours overlap, and cuts are where the text has them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_mlx.errors import ConfigError
from chroma_mlx.ingestion.cutting import Cutter
from chroma_mlx.ingestion.making import builtin_ruler
from chroma_mlx.ingestion.structure import Headings, find_headings

NONE = Headings()


def by_words(texts: Sequence[str]) -> list[int]:
    """A token is a word, or ten letters of a longer one."""
    return [sum((len(word) + 9) // 10 for word in text.split()) for text in texts]


def cut(text: str, *, size: int, overlap: int = 0, headings: Headings = NONE) -> list[str]:
    spans = Cutter(by_words, size=size, overlap=overlap).cut(text, headings)
    return [text[span.start : span.end] for span in spans]


def check(text: str, cutter: Cutter, headings: Headings = NONE) -> None:
    """Every character that is no white space is in a passage, in order, and none is too long."""
    spans = cutter.cut(text, headings)
    covered = 0
    for span in spans:
        assert text[covered : span.start].strip() == "", f"{text[covered : span.start]!r} is in no passage"
        assert span.end > covered
        covered = span.end
    assert text[covered:].strip() == ""
    counts = cutter._count([text[span.start : span.end] for span in spans])
    assert max(counts, default=0) <= cutter.size


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet=st.sampled_from("ab. \n二é#`-="), max_size=300),
    size=st.integers(1, 12),
    overlap=st.integers(0, 6),
)
def test_no_token_is_left_out_and_no_passage_is_too_long(text: str, size: int, overlap: int) -> None:
    check(text, Cutter(by_words, size=size, overlap=min(overlap, size // 2)), find_headings(text))


@pytest.mark.parametrize("size", [8, 30, 254])
def test_the_models_own_tokens_are_covered_and_counted(size: int) -> None:
    random.seed(size)
    words = [
        "tokenisation",
        "of",
        "ünïcödé",
        "二三四五",
        "https://example.org/a?b=c",
        "\n\n",
        "end.",
        "x" * 200,
        "👩‍🚀",
    ]
    text = " ".join(random.choices(words, k=2_000))
    check(text, Cutter(builtin_ruler().count, size=size, overlap=size // 8))


def test_a_passage_begins_with_the_end_of_the_one_before() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    passages = cut(text, size=10, overlap=3)
    for one, next in itertools.pairwise(passages):
        assert one.split()[-3:] == next.split()[:3]
    assert len(passages) == 14


def test_without_overlap_no_word_is_twice() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    assert " ".join(cut(text, size=7)).split() == text.split()


def test_an_overlap_begins_at_a_sentence_where_one_begins() -> None:
    text = "One two three four five. Six seven. " * 6
    passages = cut(text, size=10, overlap=4)
    assert all(passage.startswith(("One", "Six")) for passage in passages)


def test_a_cut_is_at_the_best_place_of_the_second_half() -> None:
    assert cut("a b c d e f. g h i j k l", size=8) == ["a b c d e f.", "g h i j k l"]
    assert cut("a b c d e. f\n\ng h i j k l", size=8) == ["a b c d e. f", "g h i j k l"]
    assert cut("a b\n\nc d e f g h i j", size=8) == ["a b\n\nc d e f g h", "i j"]


def test_a_heading_begins_a_passage_and_nothing_overlaps_it() -> None:
    text = "# One\n\na b c d e f\n\n# Two\n\ng h i j k l"
    assert cut(text, size=10, overlap=4, headings=find_headings(text)) == [
        "# One\n\na b c d e f",
        "# Two\n\ng h i j k l",
    ]


def test_chinese_is_cut_between_any_characters() -> None:
    text = "二三四五六七八九十。" * 10
    spans = Cutter(lambda texts: [len(each) for each in texts], size=20, overlap=0).cut(text, NONE)
    assert [text[span.start : span.end] for span in spans] == ["二三四五六七八九十。" * 2] * 5


def test_a_long_text_takes_time_in_proportion() -> None:
    counted = [0]

    def count(texts: Sequence[str]) -> list[int]:
        counted[0] += sum(map(len, texts))
        return by_words(texts)

    text = " ".join(f"w{number}" for number in range(50_000))
    Cutter(count, size=100, overlap=10).cut(text, NONE)
    assert counted[0] < 3 * len(text)  # each word once, each passage once


def test_a_short_text_is_known_to_fit_without_counting() -> None:
    def never(texts: Sequence[str]) -> list[int]:
        raise AssertionError(f"counted {texts}")

    assert Cutter(never, size=20, overlap=0).fits(["short", "twenty bytes, just"]) == [True, True]
    assert Cutter(by_words, size=3, overlap=0).fits(["one two three", "one two three four"]) == [True, False]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 6), (10, -1)])
def test_an_overlap_beyond_half_is_refused(size: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="at most half of it"):
        Cutter(by_words, size=size, overlap=overlap)


def test_headings_are_found_in_both_forms_and_never_in_code() -> None:
    text = "Intro\n\n# Guide #\n\nSetup\n-----\n\n```sh\n# no heading\n```\n\n### Deep\n\n## Next\n\n- item\n---\n"
    headings = find_headings(text)
    assert headings.paths == ("Guide", "Guide > Setup", "Guide > Setup > Deep", "Guide > Next")
    assert headings.at(0) is None
    assert headings.at(text.index("no heading")) == "Guide > Setup"
    assert headings.at(text.index("- item")) == "Guide > Next"

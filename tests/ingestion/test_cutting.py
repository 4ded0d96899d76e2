"""Cutting: every word is in a passage, none is too long, neighbours overlap, and cuts are where the text has them."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_mlx.errors import ConfigError, MissingPackage
from chroma_mlx.ingestion.cutting import CountTokens, Cutter
from chroma_mlx.ingestion.headings import Headings, find_headings
from chroma_mlx.ingestion.making import builtin_ruler

NONE = Headings()


def by_words(texts: Sequence[str]) -> list[int]:
    """A token is a word, or ten letters of a longer one."""
    return [sum((len(word) + 9) // 10 for word in text.split()) for text in texts]


def cut(text: str, *, size: int, overlap: int = 0, markdown: bool = False) -> list[str]:
    headings = find_headings(text) if markdown else NONE
    spans = Cutter(by_words, size=size, overlap=overlap).cut(text, headings, markdown=markdown)
    return [text[span.start : span.end] for span in spans]


def check(text: str, cutter: Cutter, *, markdown: bool) -> None:
    """Every character that is no white space is in a passage, in order, and none is too long."""
    spans = cutter.cut(text, find_headings(text) if markdown else NONE, markdown=markdown)
    covered = 0
    for span in spans:
        assert text[covered : span.start].strip() == "", f"{text[covered : span.start]!r} is in no passage"
        assert text[covered : span.end].strip() != "", f"{text[span.start : span.end]!r} adds nothing"
        covered = span.end
    assert text[covered:].strip() == ""
    passages = [text[span.start : span.end] for span in spans]
    long = [
        passage
        for passage, tokens in zip(passages, cutter._count(passages), strict=True)
        if tokens > cutter.size and len(passage) > 1
    ]
    assert not long


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet=st.sampled_from("ab. \n二é#`-="), max_size=300),
    size=st.integers(1, 12),
    overlap=st.integers(0, 6),
    markdown=st.booleans(),
)
def test_no_token_is_left_out_and_no_passage_is_too_long(text: str, size: int, overlap: int, markdown: bool) -> None:
    check(text, Cutter(by_words, size=size, overlap=min(overlap, size // 2)), markdown=markdown)


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("size", [2, 8, 30, 254])
def test_the_models_own_tokens_are_covered_and_counted(size: int, markdown: bool) -> None:
    random.seed(size)
    words = [
        "tokenisation",
        "of",
        "ünïcödé",
        "二三四五",
        "https://example.org/a?b=c",
        "\n\n",
        "\n\n# Heading\n\n",
        "\n- item",
        "end.",
        "x" * 200,
        "👩‍🚀",
    ]
    text = " ".join(random.choices(words, k=400))
    check(text, Cutter(builtin_ruler().count, size=size, overlap=size // 8), markdown=markdown)


def overlap_of(one: str, next: str) -> int:
    """How many words a passage begins with that the one before ends with."""
    first, second = one.split(), next.split()
    return max(count for count in range(len(first) + 1) if first[len(first) - count :] == second[:count])


def test_a_passage_begins_with_the_end_of_the_one_before() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    for one, next in itertools.pairwise(cut(text, size=10, overlap=3)):
        assert 1 <= overlap_of(one, next) <= 3


def test_without_overlap_no_word_is_twice() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    assert " ".join(cut(text, size=7)).split() == text.split()


def test_an_overlap_is_of_whole_sentences_where_one_fits() -> None:
    text = "One two three four five. Six seven. " * 6
    passages = cut(text, size=14, overlap=4)
    assert len(passages) > 3
    assert all(passage.startswith("Six seven. One") for passage in passages[1:])


def test_a_heading_alone_goes_with_what_is_below_it() -> None:
    text = "# Guide\n\n## Install\n\n" + "a b c d e f g h. " * 3
    assert cut(text, size=15, overlap=5, markdown=True)[0].startswith("# Guide\n\n## Install\n\na b c")


def test_a_cut_is_at_a_paragraph_before_a_sentence_and_at_a_sentence_before_a_word() -> None:
    assert cut("A b c d e f. G h i j k l", size=8) == ["A b c d e f.", "G h i j k l"]
    assert cut("A b c d e. F\n\ng h i j k l", size=8) == ["A b c d e. F", "g h i j k l"]
    assert cut("A b\n\nc d e f g h i j", size=8) == ["A b", "c d e f g h i j"]


def test_a_heading_begins_a_passage_and_nothing_overlaps_it() -> None:
    text = "# One\n\na b c d\n\ne f\n\n# Two\n\ng h i j\n\nk l\n\nm n o p"
    assert cut(text, size=12, overlap=4, markdown=True) == [
        "# One\n\na b c d\n\ne f",
        "# Two\n\ng h i j\n\nk l",
        "k l\n\nm n o p",
    ]


def test_chinese_is_cut_between_sentences() -> None:
    text = "二三四五六七八九十。" * 10
    spans = Cutter(lambda texts: [len(each) for each in texts], size=20, overlap=0).cut(text, NONE)
    assert [text[span.start : span.end] for span in spans] == ["二三四五六七八九十。" * 2] * 5


def test_where_a_long_text_is_cut_in_stretches_no_passage_shows_it() -> None:
    text = " ".join(f"w{number}" for number in range(20_000))
    assert {len(passage.split()) for passage in cut(text, size=50)} == {50}
    passages = cut(text, size=50, overlap=5)
    assert all(1 <= overlap_of(one, next) <= 5 for one, next in itertools.pairwise(passages))


def test_white_space_without_end_is_no_passage_and_loses_none() -> None:
    gap = " " * 3_000 + "\n" * 3_000
    assert cut(f"{gap}one two{gap}three{gap}", size=2) == ["one two", "three"]


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "word " * 20_000,
        "word\n" * 20_000 + "\n\nend",
        "A sentence of six words, no more. " * 3_000,
        "x" * 100_000,
        "二三四五六七八九十" * 4_000,
        "e\u0301" * 20_000,
        "| a | b |\n" * 5_000,
        "# a\n" * 5_000,
        "```\n" + "code\n" * 10_000,
    ],
    ids=lambda text: repr(text[:10]),
)
def test_a_long_text_takes_time_in_proportion(text: str, markdown: bool) -> None:
    counted = [0, 0]

    def counting(place: int) -> CountTokens:
        def count(texts: Sequence[str]) -> list[int]:
            counted[place] += sum(map(len, texts))
            return by_words(texts)

        return count

    for place, part in enumerate((text[: len(text) // 2], text)):
        headings = find_headings(part) if markdown else NONE
        Cutter(counting(place), size=50, overlap=5).cut(part, headings, markdown=markdown)
    assert counted[1] < 2.2 * counted[0]


def test_what_was_counted_a_moment_ago_is_not_counted_again() -> None:
    counted = list[str]()

    def count(texts: Sequence[str]) -> list[int]:
        counted.extend(texts)
        return by_words(texts)

    text = "\n\n".join(f"Sentence {number} is of six words. It goes on for a while." for number in range(500))
    Cutter(count, size=50, overlap=5).cut(text, NONE)
    again = len(counted) - len(set(counted))
    assert again < 0.02 * len(counted), f"{again} of {len(counted)} were counted before"


def test_without_the_extra_only_what_is_too_long_for_one_passage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    cutter = Cutter(by_words, size=3, overlap=0)
    assert cutter.fits(["one two three", "one two three four"]) == [True, False]
    with pytest.raises(MissingPackage, match=r"pip install 'chroma-mlx\[ingest\]'"):
        cutter.cut("one two three four", NONE)


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


def test_front_matter_is_no_heading_and_a_line_across_the_page_is_no_front_matter() -> None:
    for front in ("---\ntitle: Bread\ndate: 2024\n---\n", "---\r\na: 1\r\n# note\r\n...\r\n"):
        found = find_headings(f"{front}\n# Guide\n\nText.\n")
        assert (found.paths, found.starts) == (("Guide",), (len(front) + 1,))
    assert find_headings("---\n\n# One\n\nText: more.\n\n---\n").paths == ("One",)

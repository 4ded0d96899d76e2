"""Texts to token ids: never stripped, cut before the end token, never without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import CHECKPOINTS, END, make_tokenizer, write_checkpoint
from tokenizers import Tokenizer as Backend

from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.engine import tokens
from chroma_mlx.engine.tokens import Tokenizer
from chroma_mlx.errors import CheckpointError, ConfigError, CorruptCheckpoint, InputError, TextTooLong
from chroma_mlx.texts import check_texts


def build(folder: Path, *, end_token: str | None = END, **changes: Any) -> Tokenizer:
    return Tokenizer(open_checkpoint(write_checkpoint(folder, **changes)), start_token=None, end_token=end_token)


def encode(tokenizer: Tokenizer, *texts: str, prefix: str = "", max_tokens: int = 512, **more: Any) -> list[list[int]]:
    settings = {"refuse_long": False, "places": range(len(texts))} | more
    return [ids.tolist() for ids in tokenizer.encode(list(texts), prefix=prefix, max_tokens=max_tokens, **settings)]


def ids_of(text: str, backend: Backend | None = None) -> list[int]:
    ids: list[int] = (backend or make_tokenizer()).encode(text, add_special_tokens=False).ids
    return ids


END_ID, OTHER_END_ID, START_ID = ids_of(END)[0], ids_of("<|im_end|>")[0], ids_of("<|start|>")[0]


def test_texts_are_not_stripped(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model")
    assert encode(tokenizer, "", " ", "\n a \t") == [[END_ID], [*ids_of(" "), END_ID], [*ids_of("\n a \t"), END_ID]]


@pytest.mark.parametrize("end", [END, None], ids=["appended by the tokenizer", "appended by us"])
def test_the_end_token_is_last_however_the_text_is_cut(tmp_path: Path, end: str | None) -> None:
    tokenizer = build(tmp_path / "model", tokenizer=make_tokenizer(end=end))
    letters = ids_of("abcdef")
    assert encode(tokenizer, "abcdef") == [[*letters, END_ID]]
    assert encode(tokenizer, "abcdef", max_tokens=7) == [[*letters, END_ID]]
    assert encode(tokenizer, "abcdef", max_tokens=6) == [[*letters[:5], END_ID]]
    assert encode(tokenizer, "abcdef", max_tokens=2) == [[letters[0], END_ID]]


@pytest.mark.parametrize("end", [END, None], ids=["appended by the tokenizer", "appended by us"])
def test_a_text_that_ends_with_the_end_token_gets_another(tmp_path: Path, end: str | None) -> None:
    tokenizer = build(tmp_path / "model", tokenizer=make_tokenizer(end=end))
    assert encode(tokenizer, f"a{END}") == [[*ids_of("a"), END_ID, END_ID]]


def test_the_tokenizers_own_special_tokens_are_kept_and_not_doubled(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model", tokenizer=make_tokenizer(start="<|start|>", end="<|im_end|>"))
    letters = ids_of("abcdef")
    assert tokenizer.special_tokens == 2
    assert encode(tokenizer, "abcdef") == [[START_ID, *letters, OTHER_END_ID]]
    assert encode(tokenizer, "abcdef", max_tokens=4) == [[START_ID, *letters[:2], OTHER_END_ID]]


def test_a_start_token_alone_still_leaves_the_end_token_to_us(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model", tokenizer=make_tokenizer(start="<|start|>", end=None))
    assert encode(tokenizer, "ab", max_tokens=3) == [[START_ID, *ids_of("a"), END_ID]]


def test_the_prefix_stands_before_every_text_and_counts_for_the_limit(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model")
    assert encode(tokenizer, "", "b", prefix="a:") == [[*ids_of("a:"), END_ID], [*ids_of("a:b"), END_ID]]
    assert encode(tokenizer, "bcd", prefix="a:", max_tokens=4) == [[*ids_of("a:b"), END_ID]]


def test_a_prompts_tokens_are_those_with_what_precedes_it_and_without_what_follows(tmp_path: Path) -> None:
    assert build(tmp_path / "one").prompt_tokens("abc").tolist() == ids_of("abc")
    started = build(tmp_path / "two", tokenizer=make_tokenizer(start="<|start|>"))
    assert started.prompt_tokens("abc").tolist() == [START_ID, *ids_of("abc")]
    assert started.prompt_tokens("").tolist() == []


def test_the_left_side_is_cut_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    files = {"tokenizer_config.json": {"truncation_side": "left"}}
    tokenizer = build(tmp_path / "model", files=files)
    letters = ids_of("abcdef")
    assert encode(tokenizer, "abcdef", max_tokens=4) == [[*letters[3:], END_ID]]
    assert encode(tokenizer, "abcdef", max_tokens=7) == [[*letters, END_ID]]


def test_limits_and_padding_saved_in_the_tokenizer_are_not_ours(tmp_path: Path) -> None:
    backend = make_tokenizer()
    backend.enable_truncation(2)
    backend.enable_padding(length=20)
    assert encode(build(tmp_path / "model", tokenizer=backend), "abcdef") == [[*ids_of("abcdef"), END_ID]]


def test_a_long_text_is_refused_by_its_place_in_the_call(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model")
    with pytest.raises(TextTooLong, match=r"Text 31 has 7 tokens, but the limit is 6, .*Split the text") as caught:
        encode(tokenizer, "abcde", "abcdef", max_tokens=6, refuse_long=True, places=[30, 31])
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (31, 7, 6)


def test_a_limit_that_leaves_no_room_for_a_text_is_refused(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model", tokenizer=make_tokenizer(start="<|start|>"))
    tokenizer.check_limit(3)
    with pytest.raises(ConfigError, match=r"max_tokens is 2, but this model puts 2 special token\(s\).*3 or more"):
        tokenizer.check_limit(2)


@pytest.mark.parametrize("normalizer", [True, False], ids=["with a normaliser", "without"])
def test_lower_case_comes_before_everything_else(tmp_path: Path, normalizer: bool) -> None:
    from tokenizers import normalizers

    backend = make_tokenizer()
    if normalizer:
        backend.normalizer = normalizers.NFC()
    files = {"sentence_bert_config.json": {"do_lower_case": True}}
    tokenizer = build(tmp_path / "model", tokenizer=backend, files=files)
    assert encode(tokenizer, "ABÇ") == encode(tokenizer, "abç") == [[*ids_of("abç"), END_ID]]


def test_token_ids_are_int32(tmp_path: Path) -> None:
    tokenizer = build(tmp_path / "model")
    (ids,) = tokenizer.encode(["a"], prefix="", max_tokens=9, refuse_long=False, places=[0])
    assert ids.dtype == np.int32


def test_the_vocabulary_counts_added_tokens(tmp_path: Path) -> None:
    assert build(tmp_path / "model").vocabulary == 256 + 3


def test_a_tokenizer_without_the_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"has no token '<missing>', which must stand around .*fetch the model again"
    ):
        build(tmp_path / "model", tokenizer=make_tokenizer(end=None), end_token="<missing>")


@pytest.mark.parametrize("content", ["", "no json", "{}", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match=r"tokenizer\.json is no tokenizer: .*Fetch the model again"):
        Tokenizer(open_checkpoint(folder), start_token=None, end_token=END)


def test_composed_and_decomposed_characters_are_one_text_and_compatibility_forms_are_not() -> None:
    tokenizer = Tokenizer(open_checkpoint(CHECKPOINTS / "official-float32"), start_token=None, end_token=END)
    composed, decomposed, ligature, letters = encode(tokenizer, "café", "cafe\u0301", "\ufb01", "fi")
    assert composed == decomposed
    assert ligature != letters


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "the list is empty"),
        ("one text", "The texts are one str, not a list of str"),
        (b"bytes", "The texts are one bytes, not a list of str"),
        (None, "The texts are a NoneType, not a list"),
        (7, "The texts are a int, not a list"),
        ({"a": 1}, "The texts are a dict, not a list"),
        ((text for text in "ab"), "The texts are a generator, not a list"),
        (["a", None], "Text 1 is None, not a str. Leave the record out"),
        (["a", "b", 3], "Text 2 is a int, not a str"),
        ([b"a"], "Text 0 is a bytes, not a str"),
        (["a", "\ud83d"], r"Text 1 holds the lone surrogate '\\ud83d' at character 0"),
        (["ok \udc80"], r"Text 0 holds the lone surrogate '\\udc80' at character 3"),
    ],
)
def test_what_is_not_a_list_of_texts_is_refused_by_name(texts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_texts(texts)


def test_lists_tuples_and_arrays_of_texts_are_taken_as_they_are() -> None:
    for texts in (["a", ""], ("a", ""), np.array(["a", ""]), np.array(["a", ""], dtype=object)):
        assert check_texts(texts) == ["a", ""]


def test_the_index_of_a_bad_text_rides_along() -> None:
    with pytest.raises(InputError, match="Text 2 is None") as caught:
        check_texts(["a", "b", None])
    assert caught.value.index == 2
    with pytest.raises(InputError, match="the list is empty") as caught:
        check_texts([])
    assert caught.value.index is None


@pytest.mark.parametrize("end", [END, None], ids=["appended by the tokenizer", "appended by us"])
def test_tokens_are_counted_to_the_end_or_to_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str | None
) -> None:
    tokenizer = build(tmp_path / "model", tokenizer=make_tokenizer(end=end))
    monkeypatch.setattr(tokens, "LOT_CHARACTERS", 40)
    monkeypatch.setattr(tokens, "CUT_TOKENS", 2)
    texts = ["", "abc def " * 3, "a", "abc def " * 100, "b" * 41]
    whole = sum(map(len, encode(tokenizer, *texts, max_tokens=10_000)))
    assert tokenizer.count(texts, 10_000) == whole
    assert tokenizer.count(texts, whole) == whole
    assert tokenizer.count(texts, whole - 1) > whole - 1
    seen = []
    lengths = tokenizer.lengths
    monkeypatch.setattr(tokenizer, "lengths", lambda given: seen.extend(map(len, given)) or lengths(given))
    assert 60 < tokenizer.count(["abc def " * 10_000, *texts], 60) < whole
    assert sum(seen) < 1000, "of 80,000 characters"
    seen.clear()
    assert 60 < tokenizer.count(["abc"] * 10_000, 60) < 200
    assert sum(seen) < 1000

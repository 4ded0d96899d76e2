"""A prompt's keys and values are computed once, and no vector changes for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import CHECKPOINTS, CONFIG, read_texts, write_checkpoint

from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.engine.prompts import (
    KEPT_TOKENS,
    LONGEST_PROMPT,
    SEAM_TOKENS,
    SHORTEST_PROMPT,
    Prompts,
    own_tokens,
    shared_tokens,
)
from chroma_mlx.engine.tokens import TokenIds
from chroma_mlx.errors import ConfigError
from chroma_mlx.settings import MachineSettings, VectorSettings

Vectors = npt.NDArray[np.float32]

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
SAME = 1e-5
LONG = tuple(range(1, 21))  # the tokens of a prompt; 0 is none of them


def ids(*tokens: int) -> TokenIds:
    return np.array(tokens, dtype=np.int32)


def encoder(model: str | Path, **vectors: Any) -> Encoder:
    return Encoder(VectorSettings(model_name=str(model), **vectors), MachineSettings(device="cpu"))


def without_reuse(monkeypatch: pytest.MonkeyPatch, one: Encoder, texts: list[str]) -> Vectors:
    with monkeypatch.context() as patch:
        patch.setattr(Prompts, "prefix", lambda *_: None)
        return one.encode(texts, "query")


@pytest.mark.parametrize("name", ["official-float32", "mlx-4bit", "linear-rope", "sliding-window", "attention-bias"])
@pytest.mark.parametrize("instruction", [PROMPT, "abc: ", "Find what refutes the claim"])
def test_a_reused_prompt_changes_no_vector(name: str, instruction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = encoder(CHECKPOINTS / name, query_instruction=instruction)
    texts = [*read_texts(), "", " ", ":", "\n"]
    one.load().network.prompts._kept.clear()
    worst = float(np.abs(one.encode(texts, "query") - without_reuse(monkeypatch, one, texts)).max())
    assert worst < SAME, f"{name}, {instruction!r}: differs by {worst:.1e}"
    assert len(one.load().network.prompts._kept) == 1, "the prompt was not reused"


def test_a_prompt_is_computed_once(tmp_path: Path) -> None:
    one = encoder(write_checkpoint(tmp_path / "model"), query_instruction=PROMPT)
    tokens = [one.embed([text], "query").tokens for text in ("one", "two", "six")]
    assert len(set(tokens)) == 1, "the count says what the texts have, whatever is computed"
    network: Any = one.load().network
    batches: list[int] = []
    inner = network.encoder

    class Counting:
        causal = True

        def __call__(self, batch: Any) -> Any:
            batches.append(batch.ids.size - batch.spare)
            return inner(batch)

    object.__setattr__(network, "encoder", Counting())
    object.__setattr__(network, "prompts", Prompts())
    for text in ("one", "two", "three"):
        one.encode([text], "query")
    length = len(one.load().tokenizer.prompt_tokens(PROMPT))
    assert batches == [length, 4, 4, 6]  # a token a byte, and the end token
    one.encode(["one"], "document")
    assert batches[-1] == 4


def test_the_first_query_gets_the_vector_of_every_later_one(tmp_path: Path) -> None:
    one = encoder(write_checkpoint(tmp_path / "model"), query_instruction=PROMPT)
    first = one.encode(["why is the sky blue"], "query")
    for _ in range(3):
        np.testing.assert_array_equal(one.encode(["why is the sky blue"], "query"), first)


@pytest.mark.parametrize("missing", [1, 2, 10, 50])
def test_an_instruction_that_leaves_no_room_for_a_text_is_refused(missing: int) -> None:
    tokens = len(encoder(CHECKPOINTS / "official-float32").load().tokenizer.prompt_tokens(PROMPT))
    one = encoder(CHECKPOINTS / "official-float32", query_instruction=PROMPT, max_tokens=tokens + 2 - missing)
    with pytest.raises(ConfigError, match=rf"before a query has {tokens} tokens, .* Shorten query_instruction"):
        one.encode(["a text"], "query")
    assert one.encode(["a text"], "document").shape == (1, one.load().dimension)


def test_an_instruction_beyond_the_models_own_limit_is_refused() -> None:
    one = encoder("builtin", document_instruction="Given a web search query, retrieve " * 200)
    with pytest.raises(ConfigError, match="nothing would be left of any document"):
        one.encode(["a text"], "document")


@pytest.mark.parametrize("room", [1, 2, 3, 16])
def test_a_text_that_a_limit_cuts_behind_a_prompt_changes_no_vector(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = len(encoder(CHECKPOINTS / "official-float32").load().tokenizer.prompt_tokens(PROMPT))
    one = encoder(CHECKPOINTS / "official-float32", query_instruction=PROMPT, max_tokens=tokens + 1 + room)
    texts = ["short", "a text that is longer than what the limit leaves of it", ""]
    worst = float(np.abs(one.encode(texts, "query") - without_reuse(monkeypatch, one, texts)).max())
    assert worst < SAME, f"room for {room}: differs by {worst:.1e}"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_pooling_that_takes_the_prompt_in_changes_nothing(pooling: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = encoder(CHECKPOINTS / "official-float32", query_instruction=PROMPT, pooling=pooling)
    texts = read_texts()[:8]
    np.testing.assert_array_equal(one.encode(texts, "query"), without_reuse(monkeypatch, one, texts))


def test_a_model_that_sees_behind_a_token_reuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = encoder(CHECKPOINTS / "gemma-official", pooling="last")
    texts = read_texts()[:8]
    np.testing.assert_array_equal(one.encode(texts, "query"), without_reuse(monkeypatch, one, texts))


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([ids(1, 2, 3, 9), ids(1, 2, 3, 8)], 3),
        ([ids(1, 2, 3, 9), ids(1, 2, 7, 8)], 2),  # the seam was joined with the text
        ([ids(1, 2, 3)], 2),  # a token is left to compute
        ([ids(1)], 0),
        ([ids(5, 2, 3, 9)], 0),
        ([ids(1, 2, 3, 4, 5), ids(1, 2)], 1),
    ],
)
def test_what_is_shared_is_what_every_text_begins_with(rows: list[TokenIds], shared: int) -> None:
    assert shared_tokens(rows, ids(1, 2, 3)) == shared


def test_a_text_that_joins_the_seam_changes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one = encoder("builtin", query_instruction="Instruct: find it\nQuery:", pooling="last")
    prompt = one.load().tokenizer.prompt_tokens("Instruct: find it\nQuery:")
    texts = [": colons", "plain words", "s of a kind", "?!"]
    rows = [one.load().tokenizer.prompt_tokens("Instruct: find it\nQuery:" + text) for text in texts]
    assert len({shared_tokens([row], prompt) for row in rows}) > 1, "no text joins the seam"
    worst = float(np.abs(one.encode(texts, "query") - without_reuse(monkeypatch, one, texts)).max())
    assert worst < SAME, f"differs by {worst:.1e}"


def test_texts_that_are_cut_on_the_left_lose_the_prompt_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "model", files={"tokenizer_config.json": {"truncation_side": "left"}})
    one = encoder(folder, query_instruction=PROMPT, max_tokens=100)
    texts = ["short", "a text that is longer than what the limit leaves of it"]
    worst = float(np.abs(one.encode(texts, "query") - without_reuse(monkeypatch, one, texts)).max())
    assert worst < SAME, f"differs by {worst:.1e}"


def test_a_reused_prompt_does_not_count_for_the_size_of_a_batch(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    texts = [f"{number:04}" for number in range(32)]
    for pooling, batches in (("last", 1), ("mean", 11)):  # what is pooled itself is computed each time
        one = encoder(folder, query_instruction="x" * 300 + ": ", pooling=pooling)
        made = list(one.request(texts, "query").batches())
        assert len(made) == batches


def row(shared: int, own: int) -> TokenIds:
    """The first `shared` tokens of LONG, and `own` others."""
    return ids(*LONG[:shared], *[0] * own)


def computed(rows: list[TokenIds], prompt: TokenIds) -> int:
    """The tokens that a pass of `rows` computes, by what it reuses of `prompt`."""
    shared = shared_tokens(rows, prompt)
    return sum(map(len, rows)) - (shared * len(rows) if shared >= SHORTEST_PROMPT else 0)


def test_rows_behind_the_prompt_and_rows_without_it_go_apart() -> None:
    rows = [row(20, 3), row(0, 7), row(20, 1), row(6, 30)]
    assert own_tokens(rows, ids(*LONG)) == [([0, 2], [3, 1]), ([1, 3], [7, 36])]


def test_a_prompt_that_was_cut_from_the_left_is_no_prompt() -> None:
    whole, cut = row(20, 3), row(20, 9)[1:]
    assert own_tokens([whole, cut], ids(*LONG)) == [([0], [3]), ([1], [28])]


@pytest.mark.parametrize("different", range(1, SEAM_TOKENS + 1))
def test_rows_with_other_tokens_at_the_seam_stay_with_the_others(different: int) -> None:
    rows = [row(20, 5), row(20 - different, 5)]
    assert own_tokens(rows, ids(*LONG)) == [([0, 1], [5 + different, 5])]


def test_one_token_more_than_a_seam_has_goes_apart() -> None:
    different = SEAM_TOKENS + 1
    rows = [row(20, 5), row(20 - different, 5)]
    assert own_tokens(rows, ids(*LONG)) == [([0], [5]), ([1], [20 - different + 5])]


def test_of_a_short_prompt_no_less_is_shared_than_is_reused() -> None:
    prompt = ids(*LONG[: SHORTEST_PROMPT + 1])
    rows = [row(SHORTEST_PROMPT + 1, 2), row(SHORTEST_PROMPT, 2), row(SHORTEST_PROMPT - 1, 2)]
    assert own_tokens(rows, prompt) == [([0, 1], [3, 2]), ([2], [SHORTEST_PROMPT + 1])]


@pytest.mark.parametrize("shared", [0, 20])
def test_rows_that_are_all_alike_make_one_part(shared: int) -> None:
    assert own_tokens([row(shared, 2), row(shared, 4)], ids(*LONG)) == [([0, 1], [2, 4])]


def test_a_row_that_is_the_prompt_has_a_token_to_compute() -> None:
    assert own_tokens([row(20, 0), row(20, 2)], ids(*LONG)) == [([0, 1], [1, 3])]


def test_without_a_prompt_all_tokens_of_all_rows_count() -> None:
    assert own_tokens([row(20, 3), row(0, 7)], None) == [([0, 1], [23, 7])]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)).filter(any), max_size=30),
    st.none() | st.integers(SHORTEST_PROMPT, 20),
)
def test_every_row_is_in_one_part_with_no_fewer_tokens_than_are_computed(
    shapes: list[tuple[int, int]], length: int | None
) -> None:
    rows = [row(shared, own) for shared, own in shapes]
    prompt = None if length is None else ids(*LONG[:length])
    parts = own_tokens(rows, prompt)
    assert sorted(index for indices, _ in parts for index in indices) == list(range(len(rows)))
    for indices, tokens in parts:
        chosen = [rows[index] for index in indices]
        assert len(tokens) == len(indices)
        assert all(1 <= count <= len(one) for count, one in zip(tokens, chosen, strict=True))
        if prompt is not None and chosen:
            assert computed(chosen, prompt) <= sum(tokens)


def test_a_batch_keeps_its_tokens_where_some_texts_lost_the_prompt(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", files={"tokenizer_config.json": {"truncation_side": "left"}})
    settings = VectorSettings(model_name=str(folder), query_instruction=PROMPT, max_tokens=100)
    one = Encoder(settings, MachineSettings(device="cpu", batch_tokens=300))
    texts = [f"text {number}" for number in range(60)]
    for lost in (1, 5):
        some = texts + [f"{number} is longer than what the limit leaves of it" for number in range(lost)]
        request = one.request(some, "query")
        made = list(request.batches())
        assert sorted(index for indices, _ in made for index in indices) == list(range(len(some)))
        most = max(computed(work.rows, request.plan.prompt_tokens) for _, work in made)
        assert most <= 300, f"{most} tokens with {lost} texts that lost the prompt"
        assert len(made) <= 4, "the others reuse the prompt, and fill their batches"


def test_prompts_are_kept_within_their_bound_the_last_used(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", config=CONFIG | {"max_position_embeddings": 4 * LONGEST_PROMPT})
    length = KEPT_TOKENS // 4
    prompts = [str(number) + "x" * (length - 3) + ": " for number in range(6)]
    for prompt in prompts:
        one = encoder(folder, query_instruction=prompt)
        one.encode(["text"], "query")
    kept = one.load().network.prompts._kept
    assert list(kept) == [one.load().tokenizer.prompt_tokens(prompt).tobytes() for prompt in prompts[2:]]
    assert sum(prefix.tokens for prefix in kept.values()) == KEPT_TOKENS
    encoder(folder, query_instruction="x" * LONGEST_PROMPT + ": ").encode(["text"], "query")
    assert len(kept) == 4

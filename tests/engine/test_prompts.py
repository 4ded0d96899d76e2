"""A prompt's keys and values are computed once, and no vector changes for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small import CHECKPOINTS, CONFIG, read_texts, write_checkpoint

from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.engine.plan import make_plan
from chroma_mlx.engine.prompts import KEPT_TOKENS, LONGEST_PROMPT, Prompts, shared_tokens
from chroma_mlx.engine.tokens import TokenIds
from chroma_mlx.errors import ConfigError
from chroma_mlx.settings import MachineSettings, VectorSettings

Vectors = npt.NDArray[np.float32]

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
SAME = 1e-5


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
    one.load().prompts._kept.clear()
    worst = float(np.abs(one.encode(texts, "query") - without_reuse(monkeypatch, one, texts)).max())
    assert worst < SAME, f"{name}, {instruction!r}: differs by {worst:.1e}"
    assert len(one.load().prompts._kept) == 1, "the prompt was not reused"


def test_a_prompt_is_computed_once(tmp_path: Path) -> None:
    one = encoder(write_checkpoint(tmp_path / "model"), query_instruction=PROMPT)
    tokens = [one.embed([text], "query").tokens for text in ("one", "two", "six")]
    assert len(set(tokens)) == 1, "the count says what the texts have, whatever is computed"
    model = one.load()
    batches: list[int] = []
    inner = model.encoder

    class Counting:
        causal = True

        def __call__(self, batch: Any) -> Any:
            batches.append(batch.ids.size - batch.spare)
            return inner(batch)

    object.__setattr__(model, "encoder", Counting())
    object.__setattr__(model, "prompts", Prompts())
    for text in ("one", "two", "three"):
        one.encode([text], "query")
    length = len(model.tokenizer.prompt_tokens(PROMPT))
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
    texts = ["word"] * 32
    for pooling, batches in (("last", 1), ("mean", 11)):  # what is pooled itself is computed each time
        one = encoder(folder, query_instruction="x" * 300 + ": ", pooling=pooling)
        model = one.load()
        made = list(one._batches(model, make_plan(one.vectors, model, "query"), texts, list(range(32))))
        assert len(made) == batches


def test_prompts_are_kept_within_their_bound_the_last_used(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", config=CONFIG | {"max_position_embeddings": 4 * LONGEST_PROMPT})
    length = KEPT_TOKENS // 4
    prompts = [str(number) + "x" * (length - 3) + ": " for number in range(6)]
    for prompt in prompts:
        one = encoder(folder, query_instruction=prompt)
        one.encode(["text"], "query")
    kept = one.load().prompts._kept
    assert list(kept) == [one.load().tokenizer.prompt_tokens(prompt).tobytes() for prompt in prompts[2:]]
    assert sum(prefix.tokens for prefix in kept.values()) == KEPT_TOKENS
    encoder(folder, query_instruction="x" * LONGEST_PROMPT + ": ").encode(["text"], "query")
    assert len(kept) == 4

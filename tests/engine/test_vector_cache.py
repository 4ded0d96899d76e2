"""What was computed once is found again, bit for bit, and nothing else is ever found."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from cached_vectors import FOLDER, ROOMY, WIDTH, Vectors, embed, key_of, keys_of, run_python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import make_tensors, read_texts, write_checkpoint

from chroma_mlx.checkpoint import open_checkpoint, weights_hash
from chroma_mlx.engine.cached_texts import Specification, make_keys
from chroma_mlx.engine.model import unload_models
from chroma_mlx.engine.network import LocalNetwork
from chroma_mlx.engine.vector_cache import VectorCache
from chroma_mlx.errors import EngineError, InputError, TextTooLong

SPECIFICATION: Final = Specification(
    weights="0123456789abcdef",
    quantization="float32",
    dense=(),
    start_token=None,
    end_token="<|endoftext|>",
    prompt="",
    skip=0,
    pooling="last",
    max_tokens=512,
    on_long_text="truncate",
    dimension=WIDTH,
    normalize=True,
    device="cpu",
    dtype="float32",
)
CHANGES: Final[dict[str, Any]] = {
    "weights": "0123456789abcdee",
    "quantization": "bfloat16",
    "dense": ((32, 32, False, "Identity"),),
    "start_token": "<s>",
    "end_token": None,
    "prompt": "query: ",
    "skip": 1,
    "pooling": "mean",
    "max_tokens": 511,
    "on_long_text": "error",
    "dimension": 31,
    "normalize": False,
    "device": "gpu",
    "dtype": "bfloat16",
    "computation": 0,
}


# Found again


def test_a_second_call_computes_nothing_and_gives_the_same_bits(file: Path, forwards: list[int]) -> None:
    texts = read_texts()
    first = embed(texts, file)
    computed = sum(forwards)
    second = embed(texts, file)

    assert computed == len(texts) == sum(forwards)
    assert (first.cached, second.cached) == (0, len(texts))
    assert first.tokens > second.tokens == 0
    assert second.vectors.dtype == np.float32
    assert first.vectors.tobytes() == second.vectors.tobytes()


def test_only_new_texts_are_computed_and_counted(file: Path, forwards: list[int]) -> None:
    embed(["a", "b"], file)
    forwards.clear()
    mixed = embed(["c", "a", "d", "c", "b", "a"], file)
    assert sum(forwards) == 2
    assert mixed.cached == 2
    assert mixed.tokens == embed(["c", "d"], None).tokens
    again = [embed([text], file).vectors[0] for text in ["c", "a", "d", "c", "b", "a"]]
    assert mixed.vectors.tobytes() == np.stack(again).tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text("abcé\0", max_size=3), min_size=1, max_size=6), min_size=1, max_size=4))
def test_whatever_came_before_a_text_has_one_vector(tmp_path: Path, calls: list[list[str]]) -> None:
    file = tmp_path / "one for all examples"
    for texts in calls:
        found = embed(texts, file)
        np.testing.assert_allclose(found.vectors, embed(texts, None).vectors, atol=1e-5)
        again = embed(texts[::-1], file)
        assert again.cached == len(set(texts))
        assert again.vectors[::-1].tobytes() == found.vectors.tobytes()


def test_another_process_finds_what_this_one_computed(file: Path) -> None:
    vectors = embed(["a", "b"], file).vectors
    code = """
from chroma_mlx import MLXEmbeddingFunction
function = MLXEmbeddingFunction(sys.argv[1], device="cpu", embedding_cache=sys.argv[2])
found = function.encoder().embed(["b", "a"], "document")
assert (found.cached, found.tokens) == (2, 0), found
assert found.vectors[::-1].tobytes().hex() == sys.argv[3]
"""
    run_python(code, FOLDER, file, vectors.tobytes().hex())


@pytest.mark.parametrize(
    "text",
    ["", "\0", "a\0b", "é", "e\u0301", "😀", "planet " * 40_000],
    ids=["empty", "NUL", "NUL inside", "accent", "combining accent", "emoji", "huge"],
)
def test_any_text_is_found_again(text: str, file: Path) -> None:
    first, second = embed([text], file), embed([text, "other"], file)
    assert (first.cached, second.cached) == (0, 1)
    assert first.vectors[0].tobytes() == second.vectors[0].tobytes()


def test_a_text_without_utf_8_is_refused_with_a_cache_too(file: Path) -> None:
    with pytest.raises(InputError, match="Text 1 holds the lone surrogate"):
        embed(["a", "\ud800"], file)
    assert not file.exists()


def test_the_same_weights_in_another_folder_are_the_same_model(file: Path, tmp_path: Path, forwards: list[int]) -> None:
    shutil.copytree(FOLDER, tmp_path / "model")
    embed(["a"], file)
    assert embed(["a"], file, model=str(tmp_path / "model")).cached == 1
    assert sum(forwards) == 1


def test_values_at_the_edge_of_float32_come_back_as_they_were(file: Path) -> None:
    edge = np.array([[-0.0, 1e-45, -3.4028235e38, 1.1754944e-38]], dtype=np.float32)
    cache = VectorCache(file, ROOMY)
    cache.put(keys_of(1), edge)
    assert cache.get(keys_of(1), 4)[key_of(1)].tobytes() == edge.tobytes()


# And nothing else


def test_every_field_of_the_specification_has_a_change_below() -> None:
    assert {field.name for field in dataclasses.fields(Specification)} == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_the_specification_separates_keys(field: str) -> None:
    other = dataclasses.replace(SPECIFICATION, **{field: CHANGES[field]})
    assert make_keys(other, ["a"]) != make_keys(SPECIFICATION, ["a"])
    assert make_keys(dataclasses.replace(SPECIFICATION), ["a"]) == make_keys(SPECIFICATION, ["a"])


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=2, unique=True))
def test_no_two_prompts_and_texts_have_one_key(pairs: list[tuple[str, str]]) -> None:
    keys = {make_keys(dataclasses.replace(SPECIFICATION, prompt=prompt), [text])[0] for prompt, text in pairs}
    assert len(keys) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 16},
        {"pooling": "mean"},
        {"normalize": False},
        {"max_tokens": 100},
        {"document_instruction": "passage: "},
        {"on_long_text": "error"},
        {"model": "builtin"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_text_under_another_setting_is_another_text(change: dict[str, Any], file: Path) -> None:
    embed(["a", "b"], file)
    other = embed(["a", "b"], file, **change)
    assert other.cached == 0
    assert embed(["b", "a"], file, **change).vectors[::-1].tobytes() == other.vectors.tobytes()
    np.testing.assert_allclose(other.vectors, embed(["a", "b"], None, **change).vectors, atol=1e-5)


def test_weights_that_differ_between_the_samples_are_other_weights(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_hash, "SAMPLES", 8)
    monkeypatch.setattr(weights_hash, "SAMPLE_BYTES", 16)
    tensors = make_tensors()
    one = str(write_checkpoint(tmp_path / "one", tensors=tensors))
    tensors["norm.weight"][3] += 2
    other = str(write_checkpoint(tmp_path / "other", tensors=tensors))
    assert len({open_checkpoint(Path(folder)).weights_hash for folder in (one, other)}) == 1

    before = embed(["a"], file, model=one).vectors
    found = embed(["a"], file, model=other)
    assert found.cached == 0
    assert float(np.abs(found.vectors - before).max()) > 1e-3
    for folder, vectors in ((one, before), (other, found.vectors)):
        again = embed(["a"], file, model=folder)
        assert again.cached == 1
        assert again.vectors.tobytes() == vectors.tobytes()


def test_a_model_whose_files_changed_since_it_was_loaded_leaves_the_cache_alone(file: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    before = embed(["a"], None, model=str(folder)).vectors
    tensors = make_tensors()
    tensors["norm.weight"][3] += 2
    write_checkpoint(folder, tensors=tensors)
    for _ in range(2):
        still = embed(["a"], file, model=str(folder))
        assert still.cached == 0
        np.testing.assert_array_equal(still.vectors, before)
    unload_models()
    changed = embed(["a"], file, model=str(folder))
    assert changed.cached == 0
    assert float(np.abs(changed.vectors - before).max()) > 1e-3
    assert embed(["a"], file, model=str(folder)).cached == 1


def test_a_model_whose_files_are_gone_goes_on_without_the_cache(file: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    before = embed(["a"], None, model=str(folder)).vectors
    shutil.rmtree(folder)
    assert embed(["a"], file, model=str(folder)).vectors.tobytes() == before.tobytes()


def test_a_query_is_found_as_a_document_only_where_the_prompts_are_equal(file: Path) -> None:
    document = embed(["a"], file).vectors
    query = embed(["a"], file, kind="query")
    assert query.cached == 0
    assert float(np.abs(query.vectors - document).max()) > 1e-3
    plain = embed(["a"], file, kind="query", query_instruction="")
    assert plain.cached == 1
    assert plain.vectors.tobytes() == document.tobytes()


def test_a_text_cached_cut_is_still_too_long_where_that_is_an_error(file: Path) -> None:
    long = "long " * 40
    embed(["a", long], file, max_tokens=40)
    embed(["a"], file, max_tokens=40, on_long_text="error")
    with pytest.raises(TextTooLong, match="Text 3 has 122 tokens, but the limit is 40,"):
        embed(["a", "b", "a", long], file, max_tokens=40, on_long_text="error")


def test_a_bad_vector_is_named_by_its_place_among_all_texts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(["a", "b"], file)
    monkeypatch.setattr(LocalNetwork, "embed", lambda self, rows, **_: np.full((len(rows), WIDTH), np.nan, np.float32))
    with pytest.raises(EngineError, match="The model gave text 3 a vector that is not finite"):
        embed(["a", "b", "a", "c"], file)
    monkeypatch.undo()
    assert embed(["c"], file).cached == 0


def test_a_call_that_fails_midway_keeps_what_it_computed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = LocalNetwork.embed, iter(range(9))

    def fails_at_the_third(self: LocalNetwork, rows: list[Any], **options: Any) -> Vectors:
        if next(calls) == 2:
            raise EngineError("the third batch")
        return forward(self, rows, **options)

    monkeypatch.setattr(LocalNetwork, "embed", fails_at_the_third)
    with pytest.raises(EngineError, match="the third batch"):
        embed(["a", "bb", "ccc", "dddd"], file, machine={"batch_size": 1})
    monkeypatch.undo()
    assert embed(["a", "bb", "ccc", "dddd"], file).cached == 2

"""Mock vectors: the same everywhere, of unit length, and close for texts that share words."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import chromadb
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from chromadb.config import Settings
from hypothesis import given, settings

from chroma_mlx import MockEmbeddingFunction
from chroma_mlx.errors import ConfigError, InputError

ROOT = Path(__file__).parents[2]
# float32, little-endian. A change of these changes the vectors of every user's stored tests.
GOLDEN = {
    "": "1e5e673edd21bc3e9dce0cbf564a023fd9ab543efdd6d5befea8cdbc014d3dbe",
    "The Moon orbits the Earth.": "e58b193f89eba3bd3b35ae3cea76ab3cd53a8e3ec0190bbf5905ecbe7172603e",
    "月と地球": "41a85cbd37a1e53e4c21af3e05bbc43c2a6015bf85d99dbe5d04543e12f7e43e",
    "Straße ＡＢＣ\x00\n": "4873063e6288cc3e4b64f73ec1bca3bef890753e28a88abe350a3a3d636d18bf",
}
GOLDEN_1024 = ("The Moon orbits the Earth.", "587d24316d8c0487c14955b9e0401d3cbac073b631c5b8c2ecbbe0e7dbc7aafe")
TEXTS_PER_TEST = 1_000
MOST_SECONDS = 5.0  # on an idle machine it takes a tenth of one

texts = st.text(st.characters(codec="utf-8"))
# From eight letters on, words weigh the same.
long_words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=8, max_size=12)


def embed(text: str, dimension: int = 256) -> npt.NDArray[np.float32]:
    vector: npt.NDArray[np.float32] = MockEmbeddingFunction(dimension).encode([text])[0]
    return vector


def cosine(left: str, right: str, dimension: int = 256) -> float:
    return float(embed(left, dimension) @ embed(right, dimension))


def run_python(code: str, **environment: str) -> Any:
    """The JSON that a script prints last in a process of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# --- The same everywhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", GOLDEN)
def test_the_vectors_are_those_of_every_version(text: str) -> None:
    expected = np.frombuffer(bytes.fromhex(GOLDEN[text]), dtype="<f4")

    np.testing.assert_array_equal(embed(text, 8), expected)


def test_a_wide_vector_is_that_of_every_version() -> None:
    text, digest = GOLDEN_1024

    assert hashlib.sha256(embed(text, 1024).astype("<f4").tobytes()).hexdigest() == digest


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_another_process_with_other_hashes_makes_the_same_vectors(seed: str) -> None:
    code = f"""
import json
from chroma_mlx import MockEmbeddingFunction
vectors = MockEmbeddingFunction(8).encode({list(GOLDEN)!r})
print(json.dumps([vector.astype("<f4").tobytes().hex() for vector in vectors]))
"""
    assert run_python(code, PYTHONHASHSEED=seed) == list(GOLDEN.values())


def test_neither_mlx_nor_a_tokenizer_is_imported() -> None:
    code = """
import json, sys
import chromadb
from chromadb.config import Settings
before = set(sys.modules)
from chroma_mlx import EmbeddingConfig, EmbeddingRouter, MockEmbeddingFunction
MockEmbeddingFunction(8)(["moon"])
router = EmbeddingRouter(EmbeddingConfig(mode="mock", dimension=8))
router.embed(["moon"])
collection = router.collection(chromadb.EphemeralClient(Settings(anonymized_telemetry=False)), "moons")
collection.upsert([{"id": "a", "text": "moon"}])
assert [hit.id for hit in collection.query("moon")] == ["a"]
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(loaded & {"mlx", "mlx_lm", "tokenizers", "transformers", "torch", "huggingface_hub"})))
"""
    assert run_python(code, ANONYMIZED_TELEMETRY="False") == []


# --- Of unit length ----------------------------------------------------------------------------------------


@given(texts, st.sampled_from([1, 2, 3, 8, 256, 1024]))
def test_every_text_has_a_vector_of_unit_length(text: str, dimension: int) -> None:
    vector = embed(text, dimension)

    assert (vector.shape, vector.dtype) == ((dimension,), np.float32)
    assert np.isfinite(vector).all()
    assert abs(np.linalg.norm(vector.astype(np.float64)) - 1.0) < 1e-6


@given(st.lists(texts, min_size=1, max_size=50))
def test_one_dimension_is_enough(many: list[str]) -> None:
    vectors = MockEmbeddingFunction(1).encode(many)

    assert vectors.shape == (len(many), 1)
    assert set(np.abs(vectors).ravel()) == {1.0}


@pytest.mark.parametrize("text", ["a" * 1_000_000, "moon " * 200_000, " ".join(map(str, range(20_000)))])
def test_a_very_long_text_has_a_vector_of_unit_length(text: str) -> None:
    assert abs(np.linalg.norm(embed(text, 8).astype(np.float64)) - 1.0) < 1e-6


# --- Equal texts, alike texts ------------------------------------------------------------------------------


@given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 300))
def test_a_text_has_one_vector_in_any_batch_and_as_a_query(many: list[str], dimension: int) -> None:
    function = MockEmbeddingFunction(dimension)

    together = function([*many, *many])

    for place, text in enumerate([*many, *many]):
        np.testing.assert_array_equal(together[place], embed(text, dimension))
        np.testing.assert_array_equal(function.embed_query([text])[0], together[place])


@settings(deadline=None)
@given(st.lists(long_words, min_size=7, max_size=7, unique=True), st.integers(0, 2), st.data())
def test_a_text_that_shares_half_of_the_words_is_closer_than_one_that_shares_none(
    words: list[str], more: int, data: st.DataObject
) -> None:
    shared, own, others, foreign = words[0], words[1], words[2], words[3:]
    query = " ".join(data.draw(st.permutations([shared, own])))
    sharing = " ".join(data.draw(st.permutations([shared, others])))
    strange = " ".join(foreign[: 2 + more])

    assert cosine(query, sharing) > cosine(query, strange)


@settings(deadline=None)
@given(st.lists(long_words, min_size=9, max_size=9, unique=True), st.data())
def test_one_shared_word_of_three_is_enough_at_the_default_width(words: list[str], data: st.DataObject) -> None:
    query, sharing, strange = words[:3], [words[0], *words[3:5]], words[6:]
    width = MockEmbeddingFunction().dimension
    mixed = [" ".join(data.draw(st.permutations(each))) for each in (query, sharing, strange)]

    assert width == 1024
    assert cosine(mixed[0], mixed[1], width) > cosine(mixed[0], mixed[2], width)


@given(long_words, long_words, long_words)
def test_a_long_word_counts_for_more_than_a_short_one(shared: str, one: str, other: str) -> None:
    query = f"the {shared}"

    if len({shared, one, other}) == 3:
        assert cosine(query, f"of {shared}", 1024) > cosine(query, f"the {one}", 1024)
        assert cosine(query, f"the {one}", 1024) > -0.2


@given(st.lists(st.text("abcdeàéöñßæджяωλπ", min_size=6, max_size=10), min_size=1, max_size=6))
def test_case_does_not_matter_for_words(words: list[str]) -> None:
    text = " ".join(words)

    assert cosine(text, text.upper()) > 0.97
    assert cosine(text, text.title()) > 0.97


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=6, max_size=10), min_size=1, max_size=6))
def test_full_width_forms_do_not_matter_for_words(words: list[str]) -> None:
    text = " ".join(words)
    full_width = "".join(chr(ord(letter) + 0xFEE0) if letter != " " else "\u3000" for letter in text)

    assert cosine(text, full_width) > 0.97


@given(st.lists(long_words, min_size=1, max_size=5), st.sampled_from([", ", "\n", "--", "! ", "_", " (", "\t"]))
def test_what_stands_between_words_matters_little(words: list[str], between: str) -> None:
    assert cosine(" ".join(words), between.join(words)) > 0.97


@pytest.mark.parametrize(
    ("query", "sharing", "strange"),
    [
        ("月", "月は地球を回る", "猫が好きです"),
        ("地球", "月亮绕着地球转", "我喜欢吃苹果"),
        ("ロケット", "大きなロケットを見た", "ねこがすきです"),
        ("ﾛｹｯﾄ", "大きなロケットを見た", "ねこがすきです"),
        ("さくら", "さくらが咲いた", "電車に乗る"),
    ],
)
def test_chinese_and_japanese_characters_are_words(query: str, sharing: str, strange: str) -> None:
    assert cosine(query, sharing, 1024) > cosine(query, strange, 1024) + 0.1


@settings(deadline=None)
@given(st.lists(long_words, min_size=2, max_size=6, unique=True))
def test_the_order_of_the_words_changes_the_vector_a_little(words: list[str]) -> None:
    text, turned = " ".join(words), " ".join(reversed(words))

    assert not np.array_equal(embed(text), embed(turned))
    assert cosine(text, turned) > 0.97


@settings(deadline=None)
@given(long_words, long_words, st.integers(2, 1_000))
def test_a_repeated_word_does_not_drown_the_others(repeated: str, other: str, times: int) -> None:
    if repeated != other:
        assert cosine(f"{f'{repeated} ' * times}{other}", other, 1024) > 0.3


# --- Fast, refused, and through Chroma ---------------------------------------------------------------------


def test_a_thousand_texts_take_no_time() -> None:
    function = MockEmbeddingFunction()
    many = [f"{'some words of text ' * 20}{place} {place * 7} {uuid.uuid4()}" for place in range(TEXTS_PER_TEST)]

    started = time.perf_counter()
    vectors = function(many)

    assert time.perf_counter() - started < MOST_SECONDS
    assert len(vectors) == TEXTS_PER_TEST


@pytest.mark.parametrize("dimension", [0, -1, 1.5, "8", None, True])
def test_a_width_that_is_none_is_refused(dimension: Any) -> None:
    with pytest.raises(ConfigError, match=r"dimension is .*, which is not allowed\. Set it to a whole number of 1"):
        MockEmbeddingFunction(dimension)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ([], "There is no text to embed"),
        ("moon", "The texts are one str, not a list"),
        (["moon", None], "Text 1 is None, not a str"),
        (["moon", "a\ud83d"], "Text 1 holds the lone surrogate"),
        ([b"moon"], "Text 0 is a bytes, not a str"),
    ],
)
def test_what_is_no_text_is_refused_as_the_engine_does(wrong: Any, match: str) -> None:
    function = MockEmbeddingFunction(8)

    for take in (function, function.embed_query, function.encode):
        with pytest.raises(InputError, match=match):
            take(wrong)


def test_chroma_ranks_by_shared_words() -> None:
    client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
    collection = client.create_collection(f"ranking-{uuid.uuid4().hex}", embedding_function=MockEmbeddingFunction())
    documents = {
        "moon": "The Moon orbits the Earth every month.",
        "tides": "Tides follow the Moon.",
        "bread": "Bread needs flour, water and patience.",
        "cats": "Cats sleep through most of the afternoon.",
    }
    collection.add(ids=list(documents), documents=list(documents.values()))

    found = collection.query(query_texts=["moon orbits earth", "Flour for bread"], n_results=4)
    [exact] = collection.query(query_texts=[documents["cats"]], n_results=1)["distances"]

    assert [ids[0] for ids in found["ids"]] == ["moon", "bread"]
    assert found["ids"][0][:2] == ["moon", "tides"]
    assert exact[0] == pytest.approx(0.0, abs=1e-6)

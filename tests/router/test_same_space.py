"""`same_space=True` is held to a few of the stored texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chromadb.api import AsyncClientAPI, ClientAPI
from chromadb.utils.embedding_functions import DefaultEmbeddingFunction, ONNXMiniLM_L6_V2

from chroma_mlx import EmbeddingRouter
from chroma_mlx.errors import CollectionMismatch, ConfigError, UncheckedSpace
from chroma_mlx.models.known import KNOWN_MODELS
from chroma_mlx.router.matching import MODEL_OF_DEFAULT, with_fingerprint
from chroma_mlx.router.same_space import SEARCHED, check_sample, has_few_bits

TEXTS = ["The Moon orbits the Earth.", "Let the dough rise under a cloth.", "Oil the squeaking chain."]
LONG = "the dough rises " * 40
NEW = [{"id": "new", "text": "A star."}]


def make(
    client: ClientAPI, name: str, texts: list[str], *, space: str = "cosine", scale: float = 1.0
) -> EmbeddingRouter:
    """A collection of another program's with the built-in model's vectors, and the router that goes on with it."""
    router = EmbeddingRouter(model_name="builtin")
    client.create_collection(name, embedding_function=None, configuration={"hnsw": {"space": space}}).add(
        ids=[str(place) for place in range(len(texts))], documents=texts, embeddings=router.embed(texts) * scale
    )
    return router


def at_cosine(cosine: float) -> tuple[Any, Any]:
    """Eight pairs of unit vectors."""
    one = np.tile([1.0, 0.0], (8, 1))
    return one, np.tile([cosine, np.sqrt(1 - cosine**2)], (8, 1))


def test_a_stored_text_over_the_limit_does_not_stop_writing(client: ClientAPI, name: str) -> None:
    make(client, name, [LONG])
    strict = EmbeddingRouter(model_name="builtin", max_tokens=120, on_long_text="error")

    assert strict.collection(client, name, same_space=True).upsert(NEW).inserted == 1


def test_texts_that_a_lower_limit_cuts_are_left_out_of_the_sample(client: ClientAPI, name: str) -> None:
    make(client, name, [*[f"{LONG} {place}" for place in range(8)], *TEXTS, *"abcde"])
    short = EmbeddingRouter(model_name="builtin", max_tokens=16, on_long_text="error")

    assert short.collection(client, name, same_space=True).upsert(NEW).inserted == 1


def test_records_with_a_text_are_looked_for_behind_those_without(client: ClientAPI, name: str) -> None:
    collection = client.create_collection(name, embedding_function=None)
    ids = [str(place) for place in range(SEARCHED + 1)]
    collection.add(ids=ids, embeddings=np.ones((len(ids), 256), dtype=np.float32))
    collection.add(ids=["text"], documents=["moon"], embeddings=np.ones((1, 256), dtype=np.float32))

    opened = EmbeddingRouter(model_name="builtin").collection(client, name, same_space=True)

    with pytest.raises(CollectionMismatch, match=r"have a cosine of .* \(the mean of 1; 0.985 is the least\)"):
        opened.upsert(NEW)


def test_a_collection_without_any_text_is_warned_of_once(client: ClientAPI, name: str) -> None:
    client.create_collection(name, embedding_function=None).add(ids=["a"], embeddings=[[1.0] + [0.0] * 255])
    opened = EmbeddingRouter(model_name="builtin").collection(client, name, same_space=True)

    with pytest.warns(UncheckedSpace, match="no stored record has a text to hold that to") as warned:
        opened.query("moon")

    assert [warning.filename for warning in warned] == [__file__]
    assert opened.upsert(NEW).inserted == 1


async def test_so_is_one_of_an_asynchronous_client(async_client: AsyncClientAPI, name: str) -> None:
    made = await async_client.create_collection(name, embedding_function=None)
    await made.add(ids=["a"], embeddings=[[1.0] + [0.0] * 255])
    opened = await EmbeddingRouter(model_name="builtin").async_collection(async_client, name, same_space=True)

    with pytest.warns(UncheckedSpace, match="no stored record has a text") as warned:
        await opened.upsert(NEW)

    assert [warning.filename for warning in warned] == [__file__]


def test_an_empty_collection_needs_no_check(client: ClientAPI, name: str) -> None:
    client.create_collection(name, embedding_function=None)
    opened = EmbeddingRouter(model_name="builtin").collection(client, name, same_space=True)
    assert opened.upsert(NEW).inserted == 1


@pytest.mark.parametrize("space", ["l2", "ip"])
def test_vectors_of_another_length_are_refused_where_lengths_count(client: ClientAPI, name: str, space: str) -> None:
    router = make(client, name, TEXTS, space=space, scale=40.0)

    with pytest.raises(CollectionMismatch, match=f"length 1 where the stored .* 40, .* space, {space}") as caught:
        router.collection(client, name, same_space=True).upsert(NEW)

    assert caught.value.differences["length"] == pytest.approx((40.0, 1.0), rel=1e-5)


def test_lengths_do_not_count_in_a_cosine_space(client: ClientAPI, name: str) -> None:
    router = make(client, name, TEXTS, scale=40.0)
    assert router.collection(client, name, same_space=True).upsert(NEW).inserted == 1


@pytest.mark.parametrize(
    "settings", [{"pooling": "last"}, {"pooling": "cls"}, {"document_instruction": "query: "}], ids=str
)
def test_another_pooling_or_instruction_is_not_the_same_space(
    client: ClientAPI, name: str, settings: dict[str, Any]
) -> None:
    make(client, name, TEXTS)
    other = EmbeddingRouter(model_name="builtin", **settings)

    with pytest.raises(CollectionMismatch, match="the spaces are not the same"):
        other.collection(client, name, same_space=True).upsert(NEW)


@pytest.mark.parametrize(("cosine", "few_bits"), [(0.977, False), (0.908, True)])
def test_the_nearest_that_is_wrong_is_refused(cosine: float, few_bits: bool) -> None:
    with pytest.raises(CollectionMismatch, match=rf"have a cosine of {cosine:.3f} with the stored"):
        check_sample("notes", *at_cosine(cosine), space="cosine", few_bits=few_bits)


@pytest.mark.parametrize(("cosine", "few_bits"), [(0.995, False), (0.917, True)])
def test_the_farthest_that_is_right_is_taken(cosine: float, few_bits: bool) -> None:
    one, other = at_cosine(cosine)
    check_sample("notes", one, other * 1.08, space="l2", few_bits=few_bits)
    assert (one * other).sum(axis=1).max() < cosine + 1e-9


def test_a_vector_that_is_no_number_does_not_agree() -> None:
    with pytest.raises(CollectionMismatch, match="have a cosine of nan"):
        check_sample("notes", np.full((1, 2), np.nan), np.ones((1, 2)), space="cosine", few_bits=True)


@pytest.mark.parametrize(
    ("model_name", "stored", "few"),
    [
        ("qwen3-0.6b-4bit", None, True),
        ("mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", None, True),
        ("qwen3-0.6b-8bit", None, False),
        ("/folder", None, False),
        ("/folder", "4-bit affine, groups of 64", True),
        ("/folder", "4-bit mxfp4, groups of 32", True),
        ("qwen3-0.6b-4bit", "bfloat16", False),
        ("/folder", "8-bit affine, groups of 64", False),
    ],
)
def test_few_bits_are_known_by_the_fingerprint_or_the_models_name(
    model_name: str, stored: str | None, few: bool
) -> None:
    class Stored:
        def to_dict(self) -> dict[str, Any]:
            return {"weights": "…", "quantization": stored}

    configuration = {"embedding_function": {"name": "chroma_mlx", "config": {"model_name": model_name}}}
    metadata = None if stored is None else with_fingerprint(None, Stored())  # type: ignore[arg-type]
    assert has_few_bits(configuration, metadata, None) is few


@pytest.mark.parametrize("function", [DefaultEmbeddingFunction(), ONNXMiniLM_L6_V2()], ids=lambda each: each.name())
@pytest.mark.parametrize("settings", [{"model_name": "builtin"}, {"mode": "mock", "dimension": 384}], ids=str)
def test_a_collection_of_chromas_default_is_refused_with_the_one_model_that_fits(
    client: ClientAPI, name: str, function: Any, settings: dict[str, Any]
) -> None:
    client.create_collection(name, embedding_function=function)
    message = "model_name='all-minilm-l6-v2' in mode 'mlx' with `same_space=True`"
    with pytest.raises(CollectionMismatch, match=message):
        EmbeddingRouter(**settings).collection(client, name)


def test_the_model_that_is_named_for_chromas_default_is_in_the_table() -> None:
    assert KNOWN_MODELS[MODEL_OF_DEFAULT].dimension == 384


@pytest.mark.parametrize("word", ["yes", "", 1, None])
def test_same_space_is_said_by_true_or_false_alone(client: ClientAPI, name: str, word: Any) -> None:
    with pytest.raises(ConfigError, match=f"same_space is {word!r}, which is not allowed. Set it to True or False"):
        EmbeddingRouter(model_name="builtin").collection(client, name, same_space=word)
    assert client.list_collections() == []


async def test_so_it_is_of_an_asynchronous_client(async_client: AsyncClientAPI, name: str) -> None:
    with pytest.raises(ConfigError, match="same_space is 'yes', which is not allowed"):
        await EmbeddingRouter(model_name="builtin").async_collection(async_client, name, same_space="yes")  # type: ignore[arg-type]

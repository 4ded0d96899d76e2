"""A text that cannot be embedded, or a vector of another width: an error, and nothing stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chromadb.api import ClientAPI
from chromadb.errors import InvalidArgumentError

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.errors import InputError, TextTooLong

GOOD = "The Moon orbits the Earth."


@pytest.mark.parametrize("method", ["add", "upsert"])
def test_a_lone_surrogate_amid_good_texts_stores_none_of_them(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction, method: str
) -> None:
    collection = client.create_collection(name, embedding_function=function)

    with pytest.raises(InputError, match="Text 1 holds the lone surrogate"):
        getattr(collection, method)(ids=["a", "b", "c"], documents=[GOOD, "half a pair \ud83d", GOOD])

    assert collection.count() == 0


def test_a_text_beyond_the_limit_stores_nothing_under_error(client: ClientAPI, name: str) -> None:
    strict = MLXEmbeddingFunction("builtin", max_tokens=16, on_long_text="error")
    collection = client.create_collection(name, embedding_function=strict)

    with pytest.raises(TextTooLong, match="Text 2 has 101 tokens, but the limit is 16") as caught:
        collection.add(ids=["a", "b", "c"], documents=[GOOD, GOOD, " ".join(["moon"] * 100)])

    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (2, 101, 16)
    assert collection.count() == 0


def test_a_refused_update_leaves_the_old_text_and_vector(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = client.create_collection(name, embedding_function=function)
    collection.add(ids=["a", "b"], documents=[GOOD, GOOD])
    before = collection.get(include=["documents", "embeddings"])

    with pytest.raises(InputError, match="Text 1 holds the lone surrogate"):
        collection.update(ids=["a", "b"], documents=["another text", "\udc00"])

    after = collection.get(include=["documents", "embeddings"])
    assert after["documents"] == before["documents"] == [GOOD, GOOD]
    np.testing.assert_array_equal(np.array(after["embeddings"]), np.array(before["embeddings"]))


@pytest.mark.parametrize(("bad", "message"), [(None, "None"), (7, "int"), (b"text", "bytes")])
def test_what_is_not_text_is_refused_and_stores_nothing(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction, bad: Any, message: str
) -> None:
    collection = client.create_collection(name, embedding_function=function)

    with pytest.raises(ValueError, match=f"str, got {bad!r}"):  # by Chroma itself, before the function is asked
        collection.add(ids=["a", "b", "c"], documents=[GOOD, bad, GOOD])
    with pytest.raises(InputError, match=f"Text 1 is .*{message}, not a str"):
        function([GOOD, bad, GOOD])
    with pytest.raises(InputError, match=f"Text 1 is .*{message}, not a str"):
        function.embed_query([GOOD, bad, GOOD])

    assert collection.count() == 0


def test_an_empty_list_is_refused(client: ClientAPI, name: str, function: MLXEmbeddingFunction) -> None:
    collection = client.create_collection(name, embedding_function=function)

    with pytest.raises(ValueError, match="empty"):
        collection.add(ids=[], documents=[])
    with pytest.raises(InputError, match="the list is empty"):
        function([])
    with pytest.raises(InputError, match="the list is empty"):
        function.embed_query([])

    assert collection.count() == 0


def test_a_single_text_is_not_taken_for_a_list_of_letters(function: MLXEmbeddingFunction) -> None:
    with pytest.raises(InputError, match="one str, not a list"):
        function.embed_query("moon")  # type: ignore[arg-type]


def test_empty_text_and_white_space_are_text(client: ClientAPI, name: str, function: MLXEmbeddingFunction) -> None:
    collection = client.create_collection(name, embedding_function=function)

    collection.add(ids=["a", "b"], documents=["", " \n"])

    vectors = np.array(collection.get(include=["embeddings"])["embeddings"])
    assert vectors.shape == (2, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_vectors_of_another_width_are_refused_and_not_stored(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    client.create_collection(name, embedding_function=function).add(ids=["a"], documents=[GOOD])
    narrow = client.get_collection(name, embedding_function=MLXEmbeddingFunction("builtin", dimension=128))

    for method in (narrow.add, narrow.upsert):
        with pytest.raises(InvalidArgumentError, match="dimension of 256, got 128"):
            method(ids=["b"], documents=["The Sun is a star."])
    with pytest.raises(InvalidArgumentError, match="dimension of 256, got 128"):
        narrow.query(query_texts=["sun"], n_results=1)

    assert narrow.count() == 1


def test_texts_come_back_in_the_order_they_were_given(function: MLXEmbeddingFunction) -> None:
    texts = [f"{'word ' * (1 + 5 * number % 7)}{number}" for number in range(12)]

    together = function(texts)

    assert {vector.dtype for vector in together} == {np.dtype(np.float32)}
    alone = [function([text])[0] for text in texts]
    worst = float(np.abs(np.array(together) - np.array(alone)).max())
    assert worst < 1e-5, f"batch neighbours move a vector by {worst:.2e}"

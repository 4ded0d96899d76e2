"""Text into a collection and back, through each of Chroma's clients."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from chromadb.api import AsyncClientAPI, ClientAPI

from chroma_mlx import MLXEmbeddingFunction

CORPUS = {
    "bread": "Knead the dough for ten minutes, let it rise until it has doubled, then bake it in a hot oven.",
    "heart": "The heart pumps blood through the arteries to every organ of the body.",
    "moon": "The Moon orbits the Earth about once a month and causes the ocean's tides.",
    "volcano": "A volcano erupts when molten rock rises through the crust and escapes as lava.",
    "football": "The striker scored twice in the second half, and the team won the football match.",
    "court": "The judge sentenced the defendant to three years in prison for fraud.",
    "guitar": "She tuned the six strings of her guitar before the concert began.",
    "bees": "Honey bees carry pollen from flower to flower and store nectar in the hive.",
    "train": "The night train to Vienna leaves from platform four at half past ten.",
    "bank": "The central bank raised interest rates to slow down inflation.",
    "snow": "Heavy snow and freezing wind closed the mountain roads this winter.",
    "python": "A Python list comprehension builds a new list from an iterable in one expression.",
}
QUESTIONS = {
    "How do I make a loaf at home?": "bread",
    "Which organ moves blood around the body?": "heart",
    "why are there tides in the sea": "moon",
    "where does lava come from": "volcano",
    "who won the football game": "football",
    "criminal trial and prison sentence": "court",
    "musical instrument with strings": "guitar",
    "insects that make honey": "bees",
    "when does the train depart": "train",
    "monetary policy against rising prices": "bank",
    "bad winter weather": "snow",
    "build a list in a programming language": "python",
}


def first_hits(result: Any) -> list[str]:
    return [ids[0] for ids in result["ids"]]


def stored(collection: Any, *ids: str) -> np.ndarray[Any, Any]:
    """The vectors of `ids`, in that order."""
    got = collection.get(ids=list(ids), include=["embeddings"])
    return np.array([got["embeddings"][got["ids"].index(each)] for each in ids])


def test_each_question_finds_the_sentence_that_answers_it_first(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = client.create_collection(name, embedding_function=function)
    collection.add(ids=list(CORPUS), documents=list(CORPUS.values()))

    result = collection.query(query_texts=list(QUESTIONS), n_results=3)

    assert first_hits(result) == list(QUESTIONS.values())
    distances = np.array(result["distances"])
    assert (np.diff(distances, axis=1) >= 0).all()
    assert (distances >= 0).all()
    assert (distances <= 2).all()


def test_get_returns_the_documents_with_the_vectors_of_the_function(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = client.create_collection(name, embedding_function=function)
    collection.add(ids=list(CORPUS), documents=list(CORPUS.values()))

    got = collection.get(ids=["moon", "bees"], include=["documents"])

    assert dict(zip(got["ids"], got["documents"] or [], strict=True)) == {key: CORPUS[key] for key in ("moon", "bees")}
    expected = np.array(function([CORPUS["moon"], CORPUS["bees"]]))
    assert expected.shape == (2, 256)
    np.testing.assert_allclose(stored(collection, "moon", "bees"), expected, atol=1e-5)


def test_update_and_upsert_embed_the_new_text(client: ClientAPI, name: str, function: MLXEmbeddingFunction) -> None:
    collection = client.create_collection(name, embedding_function=function)
    collection.add(ids=["a", "b"], documents=[CORPUS["moon"], CORPUS["bank"]])

    collection.update(ids=["a"], documents=[CORPUS["bread"]])
    collection.upsert(ids=["b", "c"], documents=[CORPUS["train"], CORPUS["bees"]])

    expected = np.array(function([CORPUS["bread"], CORPUS["train"], CORPUS["bees"]]))
    np.testing.assert_allclose(stored(collection, "a", "b", "c"), expected, atol=1e-5)
    assert first_hits(collection.query(query_texts=["baking a loaf", "honey"], n_results=1)) == ["a", "c"]


def test_the_collection_keeps_the_function_as_known_and_compares_by_cosine(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = client.create_collection(name, embedding_function=function)

    saved = collection.configuration_json
    assert saved["embedding_function"] == {"type": "known", "name": "chroma_mlx", "config": function.get_config()}
    assert saved["hnsw"]["space"] == "cosine"


def test_a_space_that_the_user_sets_wins_over_the_functions(
    client: ClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = client.create_collection(name, embedding_function=function, configuration={"hnsw": {"space": "ip"}})

    assert collection.configuration_json["hnsw"]["space"] == "ip"


def test_a_query_carries_the_instruction_and_a_document_does_not(client: ClientAPI, name: str) -> None:
    plain = MLXEmbeddingFunction("builtin")
    prompted = MLXEmbeddingFunction("builtin", query_instruction="query: ")
    collection = client.create_collection(name, embedding_function=prompted)
    collection.add(ids=["a"], documents=[CORPUS["moon"]])

    by_text = collection.query(query_texts=[CORPUS["moon"]], n_results=1)
    by_vector = collection.query(query_embeddings=plain(["query: " + CORPUS["moon"]]), n_results=1)

    np.testing.assert_allclose(stored(collection, "a"), np.array(plain([CORPUS["moon"]])), atol=1e-5)
    assert by_text["distances"]
    assert by_vector["distances"]
    assert by_text["distances"][0][0] > 0.01
    assert by_text["distances"][0][0] == pytest.approx(by_vector["distances"][0][0], abs=1e-5)


def test_get_collection_without_a_function_rebuilds_it(client: ClientAPI, name: str) -> None:
    made = MLXEmbeddingFunction("builtin", dimension=128, query_instruction="query: ")
    created = client.create_collection(name, embedding_function=made)
    created.add(ids=list(CORPUS), documents=list(CORPUS.values()))

    again = client.get_collection(name)

    assert again.configuration["embedding_function"] == made
    questions = list(QUESTIONS)[:3]
    assert again.query(query_texts=questions, n_results=4) == created.query(query_texts=questions, n_results=4)
    again.add(ids=["new"], documents=["A kettle boils water for tea."])
    assert stored(again, "new").shape == (1, 128)


async def test_async_add_and_query_by_text_find_the_right_sentences(
    async_client: AsyncClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    collection = await async_client.create_collection(name, embedding_function=function)
    await collection.add(ids=list(CORPUS), documents=list(CORPUS.values()))
    await collection.update(ids=["moon"], documents=[CORPUS["moon"] + " It has no air."])
    await collection.upsert(ids=["tea"], documents=["A kettle boils water for tea."])

    result = await collection.query(query_texts=[*QUESTIONS, "hot drink"], n_results=1)

    assert first_hits(result) == [*QUESTIONS.values(), "tea"]
    assert collection.configuration_json["embedding_function"]["type"] == "known"


async def test_embedding_in_a_worker_thread_leaves_the_event_loop_free(
    async_client: AsyncClientAPI, name: str, function: MLXEmbeddingFunction
) -> None:
    texts = [f"{text} Note {number}." for number in range(10) for text in CORPUS.values()]
    collection = await async_client.create_collection(name, embedding_function=function)
    embedding = asyncio.create_task(asyncio.to_thread(function, texts))
    turns = 0
    while not embedding.done():
        turns += 1
        await asyncio.sleep(0)

    vectors = await embedding
    await collection.add(ids=[str(number) for number in range(len(texts))], documents=texts, embeddings=vectors)
    queries = await asyncio.to_thread(function.embed_query, ["insects that make honey"])
    result = await collection.query(query_embeddings=queries, n_results=10)

    assert turns > 10
    assert {text.split(" Note")[0] for text in result["documents"][0]} == {CORPUS["bees"]}

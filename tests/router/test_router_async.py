"""The same router on AsyncHttpClient: same results, same errors, and the event loop stays free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api import AsyncClientAPI, ClientAPI
from chromadb.errors import NotFoundError

from chroma_mlx import EmbeddingRouter
from chroma_mlx.errors import (
    CollectionMismatch,
    ConfigError,
    DimensionMismatch,
    InputError,
    PartialWrite,
    RecordError,
    VectorsOnly,
)
from chroma_mlx.router.embedders import MockEmbedder

WIDTH = 8
SLOW_S = 0.4


async def test_records_are_written_and_found(async_client: AsyncClientAPI, name: str) -> None:
    router = EmbeddingRouter(model_name="builtin")
    collection = await router.async_collection(async_client, name)

    first = await collection.add([{"id": "cat", "text": "Cats sleep most of the day."}])
    second = await collection.upsert(
        [{"id": "tax", "text": "Taxes are due in April."}, {"id": "v", "vector": np.eye(256)[0]}]
    )
    third = await collection.update([{"id": "cat", "metadata": {"n": 1}}])

    assert (first.inserted, second.inserted, second.embedded, second.provided, third.updated) == (1, 2, 1, 1, 1)
    assert first.tokens > 0
    assert (await collection.query("When do I have to pay taxes?", n_results=1)).ids == ["tax"]
    assert (await collection.query(vector=np.eye(256)[0], n_results=1, include_vectors=True))[0].id == "v"
    [cats, taxes] = await collection.query_batch(["cats", "taxes"], n_results=1, where_document={"$contains": "s"})
    assert (cats.ids, taxes.ids) == (["cat"], ["tax"])
    assert cats[0].metadata == {"n": 1}
    assert await collection.count() == 3
    assert (router.usage.writes, router.usage.queries) == (3, 4)


async def test_both_clients_give_the_same_hits(async_client: AsyncClientAPI, client: ClientAPI, name: str) -> None:
    router = EmbeddingRouter(mode="mock", dimension=WIDTH)
    records = [{"id": str(n), "text": f"text number {n}"} for n in range(20)]
    plain, awaited = router.collection(client, name), await router.async_collection(async_client, name)
    plain.upsert(records)
    await awaited.upsert(records)

    first, second = plain.query("text number 7", n_results=5), await awaited.query("text number 7", n_results=5)

    assert first.ids == second.ids
    np.testing.assert_allclose([hit.distance for hit in first], [hit.distance for hit in second], atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "bad", "vector": [float("nan")] * WIDTH}, r"Record 1 \(id 'bad'\): its vector holds nan at position 0"),
        ({"id": "bad", "vector": [1.0]}, r"Record 1 \(id 'bad'\): its vector has 1 dimensions"),
        ({"id": "bad", "text": 7}, r"Record 1 \(id 'bad'\): its text is of type int"),
        ({"id": "a", "text": "b"}, r"Record 1 \(id 'a'\): its id is that of record 0 too"),
        ({"text": "b"}, "Record 1: it has no id"),
    ],
)
async def test_a_bad_record_is_named_and_nothing_is_written(
    async_client: AsyncClientAPI, name: str, bad: dict[str, Any], message: str
) -> None:
    collection = await EmbeddingRouter(mode="mock", dimension=WIDTH).async_collection(async_client, name)

    with pytest.raises(RecordError, match=message):
        await collection.upsert([{"id": "a", "text": "good"}, bad])

    assert await collection.count() == 0


async def test_add_update_and_queries_raise_as_they_do_on_a_plain_client(
    async_client: AsyncClientAPI, name: str
) -> None:
    collection = await EmbeddingRouter(mode="mock", dimension=WIDTH).async_collection(async_client, name)
    await collection.add([{"id": "a", "text": "moon"}])

    with pytest.raises(RecordError, match=r"Record 0 \(id 'a'\): it is in the collection already"):
        await collection.add([{"id": "a", "text": "sun"}])
    with pytest.raises(RecordError, match=r"Record 0 \(id 'b'\): it is not in the collection"):
        await collection.update([{"id": "b", "text": "sun"}])
    with pytest.raises(InputError, match="A query needs a text or a vector"):
        await collection.query()
    with pytest.raises(DimensionMismatch, match=r"stores 8-d vectors, but .* 2 dimensions"):
        await collection.query(vector=[1.0, 0.0])

    assert (await collection.get())["documents"] == ["moon"]


async def test_a_collection_of_another_mode_is_refused(async_client: AsyncClientAPI, name: str) -> None:
    mock = EmbeddingRouter(mode="mock", dimension=WIDTH)
    await mock.async_collection(async_client, name)

    with pytest.raises(CollectionMismatch, match="made in mode 'mock', and this router is in mode 'user_provided'"):
        await mock.with_mode("user_provided").async_collection(async_client, name)
    with pytest.raises(CollectionMismatch, match="dimension was 8 and is 16"):
        await EmbeddingRouter(mode="mock", dimension=16).async_collection(async_client, name)
    with pytest.raises(NotFoundError, match="none-such"):
        await mock.async_collection(async_client, f"{name}-none-such", create=False)


async def test_text_is_refused_in_mode_user_provided(async_client: AsyncClientAPI, name: str) -> None:
    collection = await EmbeddingRouter(mode="user_provided").async_collection(async_client, name)

    with pytest.raises(RecordError, match="it has a text and no vector"):
        await collection.upsert([{"id": "a", "text": "moon"}])
    with pytest.raises(VectorsOnly, match="query_function"):
        await collection.query("moon")

    assert await collection.count() == 0


async def test_the_fingerprint_is_stored_and_survives_new_metadata(async_client: AsyncClientAPI, name: str) -> None:
    router = EmbeddingRouter(model_name="builtin")
    await async_client.create_collection(name, embedding_function=router.embedding_function, metadata={"n": 1})
    collection = await router.async_collection(async_client, name)
    await collection.upsert([{"id": "a", "text": "moon"}])

    await collection.modify(metadata={"n": 2})

    metadata = (await async_client.get_collection(name)).metadata
    assert metadata["n"] == 2
    assert '"model": "builtin"' in metadata["chroma_mlx:fingerprint"]


async def test_a_database_that_fails_midway_says_how_much_is_written(
    async_client: AsyncClientAPI, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await EmbeddingRouter(mode="mock", dimension=WIDTH).async_collection(async_client, name)
    monkeypatch.setattr(collection._target, "max_batch", 2)
    records = [{"id": str(n), "text": f"text {n}"} for n in range(5)]
    real, calls = collection.chroma.upsert, 0

    async def upsert(**arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("connection lost")
        return await real(**arguments)

    monkeypatch.setattr(collection.chroma, "upsert", upsert)

    with pytest.raises(PartialWrite, match=r"first 2 of 5 records .* \(OSError: connection lost\)"):
        await collection.upsert(records)

    assert await collection.count() == 2
    assert (await collection.upsert(records)).inserted == 3
    assert await collection.count() == 5


async def test_embedding_leaves_the_event_loop_free(
    async_client: AsyncClientAPI, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await EmbeddingRouter(mode="mock", dimension=WIDTH).async_collection(async_client, name)
    real = MockEmbedder.embed
    running: list[bool] = [False]

    def slow(self: MockEmbedder, texts: Sequence[str], kind: Any) -> Any:
        running[0] = True
        time.sleep(SLOW_S)
        running[0] = False
        return real(self, texts, kind)

    monkeypatch.setattr(MockEmbedder, "embed", slow)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += running[0]

    ticking = asyncio.create_task(tick())
    await collection.upsert([{"id": "a", "text": "moon"}])
    while_writing = ticks
    await collection.query("moon")
    ticking.cancel()

    assert while_writing > 3
    assert ticks - while_writing > 3


async def test_many_writes_at_once_are_all_there(async_client: AsyncClientAPI, name: str) -> None:
    collection = await EmbeddingRouter(model_name="builtin").async_collection(async_client, name)

    results = await asyncio.gather(
        *(collection.upsert([{"id": f"{n}-{m}", "text": f"text {n} {m}"} for m in range(5)]) for n in range(6))
    )

    assert [result.inserted for result in results] == [5] * 6
    assert await collection.count() == 30


async def test_each_kind_of_client_has_its_own_method(
    async_client: AsyncClientAPI, client: ClientAPI, name: str
) -> None:
    router = EmbeddingRouter(mode="mock", dimension=WIDTH)

    with pytest.raises(ConfigError, match=r"This client is asynchronous\. Use `await router\.async_collection"):
        router.collection(async_client, name)
    with pytest.raises(ConfigError, match=r"This client is not asynchronous\. Use `router\.collection"):
        await router.async_collection(client, name)


@pytest.mark.parametrize("client", [None, "data", "path/to/data"])
async def test_what_is_no_client_is_refused(client: Any, name: str) -> None:
    router = EmbeddingRouter(mode="mock", dimension=WIDTH)

    with pytest.raises(ConfigError, match="client"):
        router.collection(client, name)
    with pytest.raises(ConfigError, match="client"):
        await router.async_collection(client, name)


async def test_a_client_that_was_not_awaited_is_refused(router_port: int, name: str) -> None:
    pending = chromadb.AsyncHttpClient("127.0.0.1", router_port)
    try:
        with pytest.raises(ConfigError, match="await"):
            await EmbeddingRouter(mode="mock", dimension=WIDTH).async_collection(pending, name)
    finally:
        pending.close()

"""A server whose queue is full: who is refused, how, and who is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served import client_of, options

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.engine.encoder import Encoder, scheduler
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.engine.stats import take_stats
from chroma_mlx.server.background import MOST_WAITING, Checks

JSON = {"content-type": "application/json"}


@pytest.fixture
def go_on() -> threading.Event:
    """Until it is set, the engine stands still."""
    return threading.Event()


@pytest.fixture
async def crowded(go_on: threading.Event) -> AsyncIterator[httpx.AsyncClient]:
    """A server whose engine stands still, with a query in the only place there is for one."""
    MLXEmbeddingFunction("builtin").load()
    standing = mlx_thread.submit(go_on.wait)
    config = EmbeddingConfig(model_name="builtin", max_queue=1)
    async with client_of(options(configs=(config,), body_bytes=1_000, texts=3)) as client:
        first = asyncio.ensure_future(client.post("/embed", json={"texts": ["the first"], "kind": "query"}))
        try:
            while scheduler.depth[0] < 1:
                await asyncio.sleep(0)
            yield client
        finally:
            go_on.set()
            assert (await first).status_code == 200
            await asyncio.wrap_future(standing)
    assert scheduler.depth == (0, 0)


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 20):
        yield content[start : start + 20]


async def test_what_does_not_fit_is_told_when_to_come_back(crowded: httpx.AsyncClient) -> None:
    answer = await crowded.post("/embed", json={"texts": ["a"], "kind": "query"})
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert "1 texts wait for the model, and max_queue is 1" in answer.json()["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["retry-after-ms"]) >= 1
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_openai_knows_it_as_429(crowded: httpx.AsyncClient) -> None:
    answer = await crowded.post("/v1/embeddings", json={"input": "a", "model": "builtin:query"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) >= 1


async def test_nothing_is_spent_on_what_is_refused(crowded: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Any, *arguments: Any, **others: Any) -> Any:
        raise AssertionError("the texts went on to the engine")

    monkeypatch.setattr(Encoder, "aembed", never)
    assert (await crowded.post("/embed", json={"texts": ["a"], "kind": "query"})).status_code == 503


async def test_documents_are_taken_while_queries_are_refused(
    crowded: httpx.AsyncClient, go_on: threading.Event
) -> None:
    content = in_parts(b'{"texts": ["a document"]}')
    waiting = asyncio.ensure_future(crowded.post("/embed", content=content, headers=JSON))
    while scheduler.depth[0] < 2:
        assert not waiting.done(), waiting.result().text
        await asyncio.sleep(0)
    assert (await crowded.post("/embed", json={"texts": ["another"]})).status_code == 503
    go_on.set()
    answer = await waiting
    assert answer.status_code == 200
    want = MLXEmbeddingFunction("builtin").encode(["a document"])
    np.testing.assert_allclose(np.array(answer.json()["embeddings"], np.float32), want, atol=2e-6)


async def test_a_refusal_is_counted_as_the_error_that_it_is(crowded: httpx.AsyncClient) -> None:
    def refused() -> int:
        return take_stats().errors.get("QueueFull", 0)

    before = refused()
    assert (await crowded.post("/embed", json={"texts": ["a"], "kind": "query"})).status_code == 503
    assert refused() == before + 1


async def test_what_the_vector_cache_may_have_is_not_refused(tmp_path: Path, go_on: threading.Event) -> None:
    config = EmbeddingConfig(model_name="builtin", max_queue=1, embedding_cache=tmp_path / "vectors")
    async with client_of(options(configs=(config,))) as client:
        known = {"texts": ["known"], "kind": "query"}
        assert (await client.post("/embed", json=known)).status_code == 200
        standing = mlx_thread.submit(go_on.wait)
        waiting = asyncio.ensure_future(client.post("/embed", json={"texts": ["new"], "kind": "query"}))
        while scheduler.depth[0] < 1:
            await asyncio.sleep(0)
        assert (await client.post("/embed", json=known)).status_code == 200
        go_on.set()
        assert (await waiting).status_code == 200
        await asyncio.wrap_future(standing)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"texts": "one"}', JSON, 422),
        (b'{"texts": ["a"], "kind": "query"', JSON, 422),
        (b'{"texts": ["a"], "model": "other"}', JSON, 404),
        (b'{"texts": ["' + b"a" * 1_000 + b'"], "kind": "query"}', JSON, 413),
        (b'{"texts": ["a", "b", "c", "d"], "kind": "query"}', JSON, 413),
        (b'{"texts": ["a"], "kind": "query"}', {"content-type": "text/plain"}, 415),
    ],
)
async def test_what_is_wrong_with_a_request_is_still_said(
    crowded: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    assert (await crowded.post("/embed", content=content, headers=headers)).status_code == status
    assert (await crowded.post("/embed", content=in_parts(content), headers=headers)).status_code == status


async def test_other_routes_are_answered(crowded: httpx.AsyncClient) -> None:
    assert (await crowded.get("/ready")).json() == {"ready": True}
    assert (await crowded.get("/embed")).status_code == 405


async def test_checks_for_which_there_is_no_thread_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ThreadPoolExecutor, check: Any) -> None:
        raise RuntimeError("can't start new thread")

    checks = Checks()
    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuse)
        for _ in range(MOST_WAITING + 1):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await checks.run(int)
    assert await checks.run(int) == 0

"""Many threads, one model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from chromadb.api import ClientAPI

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.engine import model as models
from chroma_mlx.engine.network import LocalNetwork
from chroma_mlx.errors import EngineError, InputError

THREADS = 8
CALLS = 2
TEXTS = [[f"thread {thread} writes line {line}, {'and again ' * line}" for line in range(4)] for thread in range(8)]


@pytest.mark.parametrize("dimensions", [[None], [None, 64, 128, 256]], ids=["one function", "several functions"])
def test_eight_threads_get_the_vectors_of_one(dimensions: list[int | None], function: MLXEmbeddingFunction) -> None:
    functions = [MLXEmbeddingFunction("builtin", dimension=dimension) for dimension in dimensions]
    together = threading.Barrier(THREADS)

    def work(thread: int) -> list[Any]:
        mine = functions[thread % len(functions)]
        together.wait(timeout=60)
        return [(mine(TEXTS[thread]), mine.embed_query(TEXTS[thread])) for _ in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))

    for thread, calls in enumerate(results):
        expected = np.array(functions[thread % len(functions)](TEXTS[thread]))
        worst = max(float(np.abs(np.array(kind) - expected).max()) for call in calls for kind in call)
        assert worst < 1e-5, f"thread {thread} is off by {worst:.2e}"


def test_threads_that_come_first_load_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = models.load_model

    def counted(folder: Any, **options: Any) -> models.Model:
        loads.append(str(folder))
        return load(folder, **options)

    monkeypatch.setattr(models, "load_model", counted)
    models.unload_models()
    functions = [MLXEmbeddingFunction("builtin", batch_size=1 + thread) for thread in range(THREADS)]
    together = threading.Barrier(THREADS)

    def work(function: MLXEmbeddingFunction) -> models.Model:
        together.wait(timeout=60)
        function(["a text"])
        return function.encoder().load()

    with ThreadPoolExecutor(THREADS) as pool:
        loaded = list(pool.map(work, functions))

    assert len(loads) == 1
    assert len({id(model) for model in loaded}) == 1


def test_a_query_is_answered_long_before_an_ingest_ends(
    local_client: ClientAPI, name: str, function: MLXEmbeddingFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = local_client.create_collection(name, embedding_function=function)
    collection.add(ids=["moon"], documents=["The Moon orbits the Earth."])
    batches: list[int] = []
    begun = threading.Event()
    embed = LocalNetwork.embed

    def counted(self: LocalNetwork, rows: list[Any], **options: Any) -> Any:
        vectors = embed(self, rows, **options)
        batches.append(len(rows))
        if len(rows) > 1:
            begun.set()
        return vectors

    monkeypatch.setattr(LocalNetwork, "embed", counted)
    many = [f"Document {number} of a large ingest." for number in range(640)]
    with ThreadPoolExecutor(1) as pool:
        ingest = pool.submit(collection.add, ids=[str(number) for number in range(len(many))], documents=many)
        assert begun.wait(timeout=60)
        before = len(batches)
        result = collection.query(query_texts=["night sky"], n_results=1)
        waited = len(batches) - before
        assert not ingest.done()
        ingest.result(timeout=120)

    assert result["ids"] == [["moon"]]
    # Two of the ingest's batches may stand before it, and some pass before and after the query's own.
    assert waited < (len(many) / 32) / 2
    assert collection.count() == 1 + len(many)


def test_an_error_reaches_the_caller_it_belongs_to_and_no_other(
    function: MLXEmbeddingFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = LocalNetwork.embed

    def failing(self: LocalNetwork, rows: list[Any], **options: Any) -> Any:
        if max(len(row) for row in rows) > 60:
            raise EngineError("the device failed on a long text")
        return embed(self, rows, **options)

    monkeypatch.setattr(LocalNetwork, "embed", failing)
    texts = [list(each) for each in TEXTS]
    texts[2][1] = "half a pair \ud83d"
    texts[5][3] = "long " * 100
    together = threading.Barrier(THREADS)

    def work(thread: int) -> Any:
        together.wait(timeout=60)
        return [function(texts[thread]) for _ in range(CALLS)]

    with ThreadPoolExecutor(THREADS) as pool:
        calls = [pool.submit(work, thread) for thread in range(THREADS)]

    with pytest.raises(InputError, match="Text 1 holds the lone surrogate"):
        calls[2].result()
    with pytest.raises(EngineError, match="the device failed on a long text"):
        calls[5].result()
    for thread in {*range(THREADS)} - {2, 5}:
        assert len(calls[thread].result()) == CALLS
    assert len(function(TEXTS[5])) == len(TEXTS[5])

"""An ingest whose texts are embedded in the engine's process, some batches ahead of what is written."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import psutil
import pytest
from chromadb.api import ClientAPI

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction, MockEmbeddingFunction, ingest, migrate
from chroma_mlx.engine.model import unload_models
from chroma_mlx.engine.own_process import engine_process
from chroma_mlx.ingestion import preparing
from chroma_mlx.router.embedders import MLXEmbedder

RECORDS = [{"id": f"n{number}", "text": f"{number} loaves of bread, " * (number % 7 + 1)} for number in range(300)]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Many batches, whatever the speed, of a real model that is nowhere in memory."""
    monkeypatch.setenv("CHROMA_MLX_MODE", "mlx")
    monkeypatch.delenv("CHROMA_MLX_DIMENSION")
    monkeypatch.setattr(preparing, "FIRST_PASSAGES", 16)
    monkeypatch.setattr(preparing, "BATCH_S", 0.02)
    unload_models()
    yield
    unload_models()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call had that was handed over whole."""
    sizes: list[int] = []
    begin = MLXEmbedder.begin

    def noted(self: MLXEmbedder, texts: Any) -> Any:
        sizes.append(len(texts))
        return begin(self, texts)

    monkeypatch.setattr(MLXEmbedder, "begin", noted)
    return sizes


def vectors_of(collection: Any) -> dict[str, Any]:
    found = collection.get(include=["embeddings"])
    return dict(zip(found["ids"], found["embeddings"], strict=True))


def holds_all(collection: Any) -> None:
    """Every record has the vector that this process makes of it."""
    stored = vectors_of(collection)
    want = MLXEmbeddingFunction("builtin", own_process=False).encode([row["text"] for row in RECORDS])
    assert set(stored) == {row["id"] for row in RECORDS}
    for row, vector in zip(RECORDS, want, strict=True):
        np.testing.assert_allclose(stored[row["id"]], vector, atol=2e-6)


def test_every_record_gets_its_own_vector(client: ClientAPI, begun: list[int]) -> None:
    result = ingest(RECORDS, "notes", client=client, model="builtin", retry_seconds=1)
    assert (result.added, result.failed) == (300, 0)
    assert len(begun) > 3
    assert sum(begun) == 300
    assert engine_process.pid not in (None, os.getpid())
    holds_all(client.get_collection("notes"))


@pytest.mark.parametrize("own_process", [False, None])
def test_weights_that_are_here_are_used_here(client: ClientAPI, begun: list[int], own_process: bool | None) -> None:
    """Where the configuration says so, or a function of the program has them in memory already."""
    if own_process is None:
        MLXEmbeddingFunction("builtin")(["loaded"])
    config = EmbeddingConfig(model_name="builtin", own_process=own_process)
    ingest(RECORDS[:20], "notes", client=client, config=config)
    assert begun == []
    assert engine_process.pid is None


def test_a_program_without_a_python_of_its_own_computes_here(
    client: ClientAPI, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.frozen", True, raising=False)
    assert ingest(RECORDS[:20], "notes", client=client, model="builtin").added == 20
    assert begun == []


def test_a_text_that_cannot_be_embedded_is_refused_alone(client: ClientAPI, begun: list[int]) -> None:
    """A migration takes texts as they are; an ingest would have cut it."""
    old = client.create_collection("old", embedding_function=MockEmbeddingFunction(8))
    texts = ["loaf"] * 60
    texts[33] = "far too long for so few tokens " * 20
    old.upsert(ids=[f"n{number}" for number in range(60)], documents=texts)
    config = EmbeddingConfig(model_name="builtin", max_tokens=16, on_long_text="error")
    result = migrate("old", "notes", client=client, config=config)
    assert sum(begun) == 60
    assert (result.added, result.failed) == (59, 1)
    assert [reject.id for reject in result.rejects] == ["n33"]
    assert set(vectors_of(client.get_collection("notes"))) == {f"n{number}" for number in range(60) if number != 33}


def test_a_process_that_is_killed_meanwhile_is_started_again(client: ClientAPI, begun: list[int]) -> None:
    def records() -> Any:
        for number, row in enumerate(RECORDS):
            if number == 150 and engine_process.pid is not None:
                os.kill(engine_process.pid, signal.SIGKILL)
                psutil.wait_procs([psutil.Process(engine_process.pid)], timeout=10) if engine_process.pid else None
            yield row

    assert ingest(records(), "notes", client=client, model="builtin").added == 300
    holds_all(client.get_collection("notes"))


def test_a_migration_is_embedded_there_too(client: ClientAPI, begun: list[int]) -> None:
    old = client.create_collection("old", embedding_function=MockEmbeddingFunction(8))
    old.upsert(ids=[row["id"] for row in RECORDS], documents=[row["text"] for row in RECORDS])
    assert migrate("old", "notes", client=client, model="builtin").added == 300
    assert sum(begun) == 300
    holds_all(client.get_collection("notes"))

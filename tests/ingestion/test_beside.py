"""An ingest whose texts are embedded in the engine's process, some batches ahead of what is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import psutil
import pytest
from chromadb.api import ClientAPI

from chroma_mlx import (
    EmbeddingConfig,
    EmbeddingRouter,
    MLXEmbeddingFunction,
    MockEmbeddingFunction,
    Record,
    ingest,
    migrate,
)
from chroma_mlx.engine.encoder import counts
from chroma_mlx.engine.model import loaded_models, unload_models
from chroma_mlx.engine.own_process import engine_process
from chroma_mlx.ingestion import preparing
from chroma_mlx.ingestion.store import Store
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
    assert engine_process.pid is None, "the model was loaded for the ingest alone"
    assert loaded_models() == []
    holds_all(client.get_collection("notes"))


def test_a_model_that_a_function_has_in_the_process_stays_there(client: ClientAPI, begun: list[int]) -> None:
    function = MLXEmbeddingFunction("builtin", own_process=True)
    function(["loaded"])
    process = engine_process.pid
    ingest(RECORDS[:20], "notes", client=client, model="builtin")
    assert sum(begun) == 20
    assert engine_process.pid == process
    assert len(loaded_models()) == 1


def test_a_collection_of_the_routers_is_filled_beside_the_program_too(client: ClientAPI, begun: list[int]) -> None:
    notes = EmbeddingRouter(EmbeddingConfig(model_name="builtin")).collection(client, "notes")
    assert ingest(RECORDS[:290], notes).added == 290
    assert sum(begun) == 290
    assert notes.upsert([Record(**row) for row in RECORDS[290:]]).embedded == 10
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


def test_a_process_that_is_killed_meanwhile_is_started_again(
    client: ClientAPI, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    put = Store.put

    def kill_first(self: Store, *arguments: Any) -> None:
        pid = engine_process.pid
        if not killed and len(begun) > 2 and pid is not None:  # others are under way
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(pid)], timeout=10)
        put(self, *arguments)

    monkeypatch.setattr(Store, "put", kill_first)
    assert ingest(RECORDS, "notes", client=client, model="builtin").added == 300
    assert killed
    holds_all(client.get_collection("notes"))


def test_a_run_that_fails_leaves_nothing_to_do(
    client: ClientAPI, begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "put", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ingest(RECORDS, "notes", client=client, model="builtin")
    running = engine_process._running
    assert begun
    assert running is not None
    assert not running.waiting
    assert engine_process.run(abs, -1) == 1


@pytest.mark.parametrize("drain", [True, False])
def test_a_shutdown_ends_it(drain: bool) -> None:
    """In a program of its own, since it is for good; a later ingest is refused as any call."""
    program = f"""
import threading, chromadb, chroma_mlx
from chroma_mlx.engine.own_process import engine_process as it
rows = [f"{{number}} loaves of bread" for number in range(3000)]
client, ended = chromadb.EphemeralClient(), []
def run(name):
    try:
        chroma_mlx.ingest(rows, name, client=client, model="builtin")
        ended.append("all")
    except Exception as error:
        ended.append(type(error).__name__)
thread = threading.Thread(target=run, args=("notes",))
thread.start()
while not it._running or not it._running.calls:
    pass
chroma_mlx.shutdown(drain={drain})
print(it.pid)
thread.join()
run("later")
print(*ended)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["None", "SchedulerClosed", "SchedulerClosed"], run.stderr


def test_it_is_counted_here(client: ClientAPI) -> None:
    before = counts.numbers().texts["document"]
    ingest(RECORDS, "notes", client=client, model="builtin")
    assert counts.numbers().texts["document"] - before == 300


def test_a_migration_is_embedded_there_too(client: ClientAPI, begun: list[int]) -> None:
    old = client.create_collection("old", embedding_function=MockEmbeddingFunction(8))
    old.upsert(ids=[row["id"] for row in RECORDS], documents=[row["text"] for row in RECORDS])
    assert migrate("old", "notes", client=client, model="builtin").added == 300
    assert sum(begun) == 300
    holds_all(client.get_collection("notes"))

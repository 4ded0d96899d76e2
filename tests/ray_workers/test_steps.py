"""The steps for a pipeline of Ray Data, called as Ray calls them; and what is refused before Ray is asked."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction, MockEmbeddingFunction
from chroma_mlx.cli import main
from chroma_mlx.database import Server
from chroma_mlx.engine.model import unload_models
from chroma_mlx.engine.own_process import engine_process
from chroma_mlx.errors import (
    ConfigError,
    DeadlineExceeded,
    DimensionMismatch,
    IngestStopped,
    InputError,
    MissingPackage,
    QueueFull,
    TextTooLong,
)
from chroma_mlx.ingestion.passage import Document
from chroma_mlx.ray import ChromaWriter, Embedder, ingest
from chroma_mlx.ray.columns import Columns
from chroma_mlx.ray.worker import Assignment, Worker

has_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
TEXTS = np.array(["one", "two", "three"], dtype=object)


def batch(**columns: Any) -> dict[str, Any]:
    found = {
        "id": np.array(["a", "b", "c"], dtype=object),
        "text": TEXTS,
        "embedding": np.eye(3, 8, dtype=np.float32),
    }
    return {name: column for name, column in (found | columns).items() if column is not None}


@pytest.fixture
def collection(port: int) -> Any:
    """A new one on the server."""
    client = chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))
    for handle in client.list_collections():
        client.delete_collection(handle.name)
    return client.create_collection("steps", embedding_function=MockEmbeddingFunction(8))


@pytest.fixture
def writer(port: int, collection: Any) -> ChromaWriter:
    return ChromaWriter("steps", host="127.0.0.1", port=port)


def test_a_batch_gets_the_vectors_of_its_texts_beside_what_it_has() -> None:
    given = {"text": TEXTS, "n": np.arange(3)}
    found = Embedder(model_name="builtin")(given)
    assert list(found) == ["text", "n", "embedding"]
    assert found["embedding"].dtype == np.float32
    worst = np.abs(found["embedding"] - MLXEmbeddingFunction("builtin").encode(TEXTS.tolist())).max()
    assert worst < 1e-6, f"vectors differ by {worst:.2e}"


def test_queries_are_embedded_as_queries_in_a_column_of_any_name() -> None:
    embedder = Embedder(model_name="builtin", text_column="q", vector_column="v", kind="query", query_instruction="Q: ")
    expected = MLXEmbeddingFunction("builtin", query_instruction="Q: ").encode(["one"], "query")
    assert np.abs(embedder({"q": TEXTS[:1]})["v"] - expected).max() < 1e-6


def test_an_empty_batch_stays_one() -> None:
    assert len(Embedder(model_name="builtin")({"text": TEXTS[:0]})["embedding"]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"body": TEXTS}, r"has no column 'text'; its columns are 'body'"),
        ({"text": np.array(["a", None], dtype=object)}, "Text 1 is None"),
        (TEXTS, "not columns by name"),
    ],
)
def test_a_batch_that_cannot_be_embedded_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Embedder(model_name="builtin")(given)


def test_a_kind_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="kind is 'title'"):
        Embedder(kind="title")  # type: ignore[arg-type]


def test_records_are_written_and_again_they_are_there_once(writer: ChromaWriter, collection: Any) -> None:
    given = batch(n=np.array([1, 2, 3]), score=np.array([0.5, np.nan, 1.5]), source=np.array(["x", None, "z"], object))
    for _ in range(2):
        assert writer(given)["id"].tolist() == ["a", "b", "c"]
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    assert (stored["ids"], stored["documents"]) == (["a", "b", "c"], TEXTS.tolist())
    assert stored["metadatas"] == [
        {"n": 1, "score": 0.5, "source": "x"},
        {"n": 2},
        {"n": 3, "score": 1.5, "source": "z"},
    ]
    assert np.array_equal(stored["embeddings"], given["embedding"])


@pytest.mark.parametrize(
    ("time", "unit", "text"),
    [
        ("2024-05-01", "D", "2024-05-01"),
        ("2024-05-01T12:30", "s", "2024-05-01T12:30:00"),
        ("2024-05-01T12:30:00.5", "us", "2024-05-01T12:30:00.500000"),
        ("2024-05-01T12:30", "ns", "2024-05-01T12:30:00"),
        ("2024-05-01T12:30:00.000000001", "ns", "2024-05-01T12:30:00.000000001"),
        ("12024-05-01", "us", "12024-05-01T00:00:00.000000"),
    ],
)
def test_a_time_becomes_text_as_in_an_ingest_and_no_time_is_left_out(time: str, unit: str, text: str) -> None:
    columns = Columns({"when": np.array([time, "NaT"], dtype=f"datetime64[{unit}]")})
    assert list(columns.metadata(("when",))) == [{"when": text}, {}]


def test_only_the_columns_that_are_named_become_metadata_and_whole_numbers_are_ids(port: int, collection: Any) -> None:
    writer = ChromaWriter("steps", host="127.0.0.1", port=port, metadata_columns=["n"], text_column=None)
    writer(batch(id=np.arange(3), n=np.array([1, 2, 3]), other=np.array([1, 2, 3])))
    stored = collection.get()
    assert (stored["ids"], stored["metadatas"], stored["documents"]) == (
        ["0", "1", "2"],
        [{"n": 1}, {"n": 2}, {"n": 3}],
        [None] * 3,
    )


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"id": np.array(["a", "b", "a"], dtype=object)}, InputError, "'a' is twice in a batch"),
        ({"id": np.array(["a", None, ""], dtype=object)}, InputError, "id of row 1 is None"),
        ({"text": np.array([1, 2, 3])}, InputError, "text of id 'a' is a int"),
        ({"embedding": np.full((3, 8), np.nan)}, InputError, r"Row 0 \(id 'a'\)"),
        ({"embedding": None}, InputError, "no column 'embedding'"),
        ({"$bad": np.array([1, 2, 3])}, InputError, "metadata of row 0"),
    ],
)
def test_a_batch_with_something_wrong_is_refused_whole(
    columns: dict[str, Any], error: type[Exception], message: str, writer: ChromaWriter, collection: Any
) -> None:
    with pytest.raises(error, match=message):
        writer(batch(**columns))
    assert collection.count() == 0


def test_vectors_of_another_width_are_refused(port: int, writer: ChromaWriter, collection: Any) -> None:
    writer(batch())
    with pytest.raises(DimensionMismatch, match="stores 8-d vectors, and these have 4 dimensions"):
        ChromaWriter("steps", host="127.0.0.1", port=port)(batch(embedding=np.eye(3, 4, dtype=np.float32)))
    assert collection.count() == 3


def test_a_collection_that_is_not_there_is_not_made(port: int) -> None:
    with pytest.raises(ConfigError, match="There is no collection 'nothing' at 127"):
        ChromaWriter("nothing", host="127.0.0.1", port=port)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find_spec(name))
    with pytest.raises(MissingPackage, match=r"pip install 'chroma-mlx\[ray\]'"):
        ingest([tmp_path], "notes", server=Server(host="127.0.0.1", port=1))


@has_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "--path", "db"], "a local database is one process's. Run `chroma run --path db`"),
        (["--workers", "3", "--path", "db"], "--workers is of several processes. Give --ray too"),
        (["--worker-cpus", "3", "--path", "db"], "--worker-cpus is of several processes"),
        (["--room-seconds", "3", "--path", "db"], "--room-seconds is of several processes"),
        (["--ray", "--host", "127.0.0.1", "--port", "1"], "No Chroma server answers at http://127.0.0.1:1"),
        (["--ray", "--host", "127.0.0.1", "--token-env", "NO_TOKEN"], "NO_TOKEN, which is to hold the token"),
    ],
)
def test_what_cannot_be_is_explained_before_ray_is_started(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one")
    assert main(["ingest", "a.txt", "--collection", "notes", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "db").exists()


@has_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"worker_cpus": 0}, "worker_cpus is 0"),
        ({"room_seconds": -1}, "room_seconds is -1"),
    ],
)
def test_numbers_that_are_no_counts_are_refused(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        ingest([tmp_path], "notes", server=Server(host="127.0.0.1", port=1), **options)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Server(host="db", token="secret"))


def test_a_worker_computes_in_its_own_process(port: int, collection: Any) -> None:
    unload_models()
    client = chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))
    client.create_collection("texts", embedding_function=MLXEmbeddingFunction("builtin"))
    assignment = Assignment(
        server=Server(host="127.0.0.1", port=port),
        collection="texts",
        was_empty=True,
        config=EmbeddingConfig(model_name="builtin"),
        passage_tokens=64,
        overlap_tokens=8,
        retry_seconds=5,
    )
    worker = Worker(assignment)
    numbers, changes = worker.prepare([Document(source="records", text="one", id="one")])
    assert (numbers, worker.put(changes, [True]).counts["added"]) == ([1], 1)
    assert engine_process.pid is None


def test_importing_the_steps_loads_neither_ray_nor_mlx() -> None:
    code = "import sys, chroma_mlx.ray; print({'ray', 'mlx', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "error",
    [
        IngestStopped(reason="gone", waited_s=3.0),
        MissingPackage("ray", "x"),
        TextTooLong(index=1, tokens=3, limit=2),
        QueueFull(pending=1, limit=1, retry_after_s=0.1),
        DeadlineExceeded(waited_s=1.0),
        DimensionMismatch("wide", expected=1, got=2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_worker_arrives_as_it_was_raised(error: Exception) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


# The first writer to have written a batch dies with it.
PIPELINE = """
import os, signal, sys
import ray
from ray.data import ActorPoolStrategy
from chroma_mlx.ray import ChromaWriter, Embedder
class Dying(ChromaWriter):
    def __init__(self, *arguments, flag, **more):
        super().__init__(*arguments, **more)
        self.flag = flag
    def __call__(self, batch):
        written = super().__call__(batch)
        try:
            open(self.flag, "x").close()
        except FileExistsError:
            return written
        os.kill(os.getpid(), signal.SIGKILL)
ray.init(num_cpus=5, include_dashboard=False, object_store_memory=2**28, logging_level="error", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = [{"id": f"r{number}", "text": f"Text {number}.", "n": number} for number in range(400)]
done = (
    ray.data.from_items(rows, override_num_blocks=8)
    .map_batches(
        Embedder,
        fn_constructor_kwargs={"model_name": "builtin"},
        compute=ActorPoolStrategy(size=2),
        batch_size=50,
        num_cpus=1,
    )
    .map_batches(
        Dying,
        fn_constructor_args=("pipeline",),
        fn_constructor_kwargs={"host": "127.0.0.1", "port": int(sys.argv[1]), "flag": sys.argv[2]},
        compute=ActorPoolStrategy(size=2),
        batch_size=50,
        num_cpus=1,
    )
)
print(len(done.take_all()))
"""


@has_ray
@pytest.mark.slow
def test_the_snippets_of_the_page_run(port: int, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    client = chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))
    function: Any = MLXEmbeddingFunction("builtin")
    client.create_collection("articles", embedding_function=function)
    for folder in ("notes", "articles"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notes/bread.md").write_text("Let the dough rise.")
    table = pyarrow.table({"id": ["a", "b"], "text": ["one", "two"], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "articles/a.parquet")
    page = (Path(__file__).parents[2] / "docs/ingest.md").read_text(encoding="utf-8")
    snippets = [block for block in page.split("```")[1::2] if "from chroma_mlx.ray import" in block]
    assert len(snippets) == 2
    for snippet in snippets:
        code = snippet.replace('Server(host="localhost")', f'Server(host="127.0.0.1", port={port})')
        code = code.replace('{"host": "localhost"}', f'{{"host": "127.0.0.1", "port": {port}}}')
        assert str(port) in code
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    assert client.get_collection("notes").count() == 1
    assert client.get_collection("articles").get()["metadatas"] == [{"n": 1}, {"n": 2}]


@has_ray
@pytest.mark.slow
def test_a_pipeline_of_ray_data_writes_everything_once_though_a_writer_dies(port: int, tmp_path: Path) -> None:
    client = chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))
    function: Any = MLXEmbeddingFunction("builtin")
    collection = client.create_collection("pipeline", embedding_function=function)
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(port), str(tmp_path / "flag")],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "flag").exists()
    assert "400" in done.stdout.splitlines()  # beside what Ray says of the one that died
    stored = collection.get(include=["documents", "metadatas"])
    found = zip(stored["ids"], stored["documents"], (row["n"] for row in stored["metadatas"]), strict=True)
    assert sorted(found, key=lambda row: row[2]) == [(f"r{number}", f"Text {number}.", number) for number in range(400)]
    assert collection.query(query_texts=["Text 17."], n_results=1)["ids"] == [["r17"]]

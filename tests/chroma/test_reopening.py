"""A collection opened by another process, with and without this package, MLX and the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import chromadb
import pytest
from processes import answer, quiet

from chroma_mlx import MLXEmbeddingFunction

TEXTS = ["The Moon orbits the Earth.", "The judge sent him to prison.", "Bake the bread in a hot oven."]
QUESTIONS = ["criminal trial", "night sky", "loaf"]

# Runs before the script: whatever opens a connection or imports the weights' library ends the process.
GUARD = """
import socket, sys
def refuse(*_):
    raise SystemExit("a connection was opened")
for method in ("connect", "connect_ex"):
    setattr(socket.socket, method, refuse)
"""
WITHOUT_MLX = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mlx":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def folder(tmp_path: Path, name: str, function: MLXEmbeddingFunction) -> Path:
    """A persistent database with a collection `name` of TEXTS."""
    client = chromadb.PersistentClient(tmp_path / "data", settings=quiet())
    client.create_collection(name, embedding_function=function).add(ids=["0", "1", "2"], documents=TEXTS)
    return tmp_path / "data"


def test_another_process_that_imported_the_package_gives_the_same_answers(folder: Path, name: str) -> None:
    code = """
import json, sys
import chromadb
import chroma_mlx
collection = chromadb.PersistentClient(sys.argv[1]).get_collection(sys.argv[2])
result = collection.query(query_texts=sys.argv[3:], n_results=3)
print(json.dumps([result["ids"], result["distances"]]))
"""
    here = chromadb.PersistentClient(folder, settings=quiet()).get_collection(name)
    expected = here.query(query_texts=QUESTIONS, n_results=3)

    ids, distances = answer(code, str(folder), name, *QUESTIONS)

    assert ids == expected["ids"]
    assert [row[0] for row in ids] == ["1", "0", "2"]
    assert expected["distances"] is not None
    for got, wanted in zip(distances, expected["distances"], strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)


def test_a_process_that_did_not_import_the_package_has_vectors_but_no_text(
    folder: Path, name: str, function: MLXEmbeddingFunction
) -> None:
    code = """
import json, sys
import chromadb
collection = chromadb.PersistentClient(sys.argv[1]).get_collection(sys.argv[2])
found = collection.query(query_embeddings=[json.loads(sys.argv[3])], n_results=1)["ids"]
try:
    collection.query(query_texts=["criminal trial"], n_results=1)
    error = None
except ValueError as refused:
    error = str(refused)
print(json.dumps([found, error]))
"""
    vector = json.dumps(function.embed_query(["criminal trial"])[0].tolist())

    found, error = answer(code, str(folder), name, vector)

    assert found == [["1"]]
    assert "Embedding function chroma_mlx not found" in error


def test_making_and_saving_a_function_touches_neither_network_nor_weights() -> None:
    code = """
import json
import chromadb
from chroma_mlx import MLXEmbeddingFunction
collection = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False)).create_collection(
    "notes", embedding_function=MLXEmbeddingFunction())
again = MLXEmbeddingFunction.build_from_config(MLXEmbeddingFunction("a/repository").get_config())
heavy = [name for name in ("mlx.core", "mlx_lm", "transformers", "torch", "huggingface_hub") if name in sys.modules]
print(json.dumps([collection.configuration_json["embedding_function"]["type"], heavy]))
"""
    kind, heavy = answer(GUARD + code)

    assert kind == "known"
    assert heavy == []


def test_without_mlx_a_collection_is_made_and_the_first_text_says_what_is_missing() -> None:
    code = """
import json, warnings
import chromadb
from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.errors import MissingPackage
warnings.simplefilter("error")
collection = chromadb.EphemeralClient().create_collection("notes", embedding_function=MLXEmbeddingFunction("builtin"))
errors = []
for attempt in (lambda: collection.add(ids=["a"], documents=["a"]), lambda: collection.query(query_texts=["a"])):
    try:
        attempt()
    except MissingPackage as error:
        errors.append([error.package, error.requirement, str(error)])
print(json.dumps([collection.configuration_json["embedding_function"]["type"], collection.count(), errors]))
"""
    kind, count, errors = answer(WITHOUT_MLX + code)

    requirement = "mlx" if sys.platform == "darwin" else "'mlx[cpu]'"
    assert (kind, count) == ("known", 0)
    assert [error[:2] for error in errors] == [["mlx", requirement]] * 2
    assert all(f"Please install it with `pip install {requirement}`" in error[2] for error in errors)


def test_without_the_model_a_collection_is_made_and_the_first_text_says_what_is_missing() -> None:
    code = """
import json
import chromadb
from chroma_mlx import ChromaMLXError, MLXEmbeddingFunction
client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
report = []
for number, model in enumerate(["qwen3-0.6b-4bit", "/no/such/folder"]):
    function = MLXEmbeddingFunction(model, auto_download=False, cache_dir=sys.argv[1])
    collection = client.create_collection(f"notes-{number}", embedding_function=function)
    try:
        collection.add(ids=["a"], documents=["a"])
    except ChromaMLXError as error:
        report.append([type(error).__name__, model in str(error), collection.count()])
    report.append(client.get_collection(f"notes-{number}").configuration_json["embedding_function"]["type"])
print(json.dumps(report))
"""
    report = answer(GUARD + code, "/no/such/cache")

    assert report == [["DownloadError", True, 0], "known", ["ModelNotFound", True, 0], "known"]

"""`chroma-mlx collections` and `chroma-mlx query`: what is there, what does not fit, and what is near."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chromadb.api import ClientAPI
from unit_vectors import unit_vectors

from chroma_mlx import EmbeddingRouter, MLXEmbeddingFunction, MockEmbeddingFunction, UserProvidedFunction
from chroma_mlx.router.matching import FINGERPRINT_KEY

Run = Callable[..., str]
OpenClient = Callable[[Path], ClientAPI]


def listed(command: Run, source: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(command("collections", "--path", source, "--json"))}


def test_every_collection_is_listed_with_what_made_it(source: Path, open_client: OpenClient, command: Run) -> None:
    client = open_client(source)
    assert command("collections", "--path", source) == "There is no collection.\n"
    notes = EmbeddingRouter(model_name="builtin").collection(client, "notes")
    notes.upsert([{"id": "bread", "text": "Let the dough rise."}])
    client.create_collection(
        "empty", embedding_function=MockEmbeddingFunction(8), configuration={"hnsw": {"space": "ip"}}
    )
    assert command("collections", "--path", source).splitlines() == [
        "name     records dimension  space   function         model",
        "empty          0         -  ip      chroma_mlx_mock  -",
        "notes          1       256  cosine  chroma_mlx       builtin",
    ]
    assert listed(command, source)["notes"] == {
        "name": "notes",
        "records": 1,
        "dimension": 256,
        "space": "cosine",
        "function": "chroma_mlx",
        "model": "builtin",
        "warnings": [],
    }


def test_more_collections_than_a_call_lists_are_all_listed(source: Path, open_client: OpenClient, command: Run) -> None:
    client = open_client(source)
    names = [f"collection-{place:03}" for place in range(103)]
    for name in names:
        client.create_collection(name, embedding_function=UserProvidedFunction())
    assert list(listed(command, source)) == names


def test_what_does_not_fit_is_said(source: Path, open_client: OpenClient, command: Run) -> None:
    client = open_client(source)
    elsewhere: Any = MLXEmbeddingFunction("nobody/no-such-model", dimension=8, auto_download=False)
    client.create_collection("elsewhere", embedding_function=elsewhere).add(
        ids=["a"], embeddings=list(unit_vectors(1, 12))
    )
    client.create_collection("bare", embedding_function=None)
    function: Any = MLXEmbeddingFunction("builtin")
    client.create_collection("damaged", embedding_function=function, metadata={FINGERPRINT_KEY: "{"})
    other = EmbeddingRouter(model_name="builtin").collection(client, "other")
    other.upsert([{"id": "bread", "text": "Let the dough rise."}])
    stored = json.loads(client.get_collection("other").metadata[FINGERPRINT_KEY])
    changed = {**stored, "weights": "of another model", "dimension": 64}
    client.get_collection("other").modify(metadata={FINGERPRINT_KEY: json.dumps(changed)})
    warnings = {name: row["warnings"] for name, row in listed(command, source).items()}
    assert [text.split(".")[0] for text in warnings["elsewhere"]] == [
        "The model 'nobody/no-such-model' is not on this disk",
        "Its function makes 8-d vectors, and it stores 12-d ones",
    ]
    assert "No embedding function is saved with it" in warnings["bare"][0]
    assert "has a damaged fingerprint" in warnings["damaged"][0]
    assert warnings["other"][0] == "Its fingerprint is of 64-d vectors, and it stores 256-d ones."
    assert "weights was 'of another model' and is" in warnings["other"][1]
    assert f"  → {warnings['bare'][0]}" in command("collections", "--path", source).splitlines()


def test_a_function_of_another_program_is_named(
    source: Path, open_client: OpenClient, command: Run, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chromadb.utils import embedding_functions

    class Foreign(MockEmbeddingFunction):
        NAME = "of_another_program"

        @classmethod
        def validate_config(cls, config: dict[str, Any]) -> None:
            """Any."""

    monkeypatch.setitem(embedding_functions.known_embedding_functions, "of_another_program", Foreign)
    client = open_client(source)
    client.create_collection("theirs", embedding_function=Foreign(8)).add(ids=["a"], documents=["x"])
    monkeypatch.delitem(embedding_functions.known_embedding_functions, "of_another_program")
    assert "'of_another_program' is not known here" in listed(command, source)["theirs"]["warnings"][0]
    assert "'of_another_program' is not known here" in refused("query", "x", "--path", source)


@pytest.fixture
def notes(source: Path, open_client: OpenClient) -> Path:
    """A database with a collection that the built-in model made."""
    router = EmbeddingRouter(model_name="builtin")
    router.collection(open_client(source), "notes").upsert(
        [
            {"id": "bread", "text": "Let the dough rise under a cloth.", "metadata": {"room": "kitchen", "n": 1}},
            {"id": "bike", "text": "Oil the squeaking chain — 二.", "metadata": {"room": "shed", "n": 2}},
        ]
    )
    return source


def test_a_query_embeds_with_the_function_of_the_collection(notes: Path, command: Run) -> None:
    question = "how do I bake a loaf?"
    lines = command("query", question, "--path", notes).splitlines()
    assert [line.split()[1] for line in lines] == ["bread", "bike"]
    [row] = json.loads(command("query", question, "--path", notes, "-n", 1, "--json"))
    client_hits = EmbeddingRouter(model_name="builtin").embed([question], "query")
    stored = EmbeddingRouter(model_name="builtin").embed(["Let the dough rise under a cloth."])
    assert row["similarity"] == pytest.approx(float(client_hits[0] @ stored[0]), abs=1e-5)
    assert (row["id"], row["metadata"]) == ("bread", {"room": "kitchen", "n": 1})


def test_a_filter_narrows_a_query(notes: Path, command: Run) -> None:
    rows = json.loads(command("query", "bread", "--path", notes, "--where", '{"n": {"$gt": 1}}', "--json"))
    assert [row["text"] for row in rows] == ["Oil the squeaking chain — 二."]
    assert command("query", "bread", "--path", notes, "--where", '{"room": "attic"}') == "nothing found\n"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{", "--where is no JSON"),
        ("[1]", "a filter of Chroma's is a table"),
        ('{"n": {"$gt": "x"}}', "Chroma takes no such filter"),
        ('{"$nand": 1}', "Invalid where clause"),
    ],
)
def test_a_filter_that_is_none_is_explained(where: str, message: str, notes: Path, refused: Run) -> None:
    assert message in refused("query", "bread", "--path", notes, "--where", where)


def test_a_collection_of_vectors_alone_takes_no_text(source: Path, open_client: OpenClient, refused: Run) -> None:
    collection = open_client(source).create_collection("vectors", embedding_function=UserProvidedFunction())
    collection.add(ids=["a"], embeddings=list(unit_vectors(1)))
    assert "the query is text" in refused("query", "x", "--path", source)


def test_an_empty_collection_answers_that_there_is_nothing(source: Path, open_client: OpenClient, command: Run) -> None:
    open_client(source).create_collection("empty", embedding_function=MockEmbeddingFunction(8))
    assert command("query", "x", "--path", source) == "nothing found\n"


def test_a_function_of_another_width_than_the_vectors_is_refused(
    source: Path, open_client: OpenClient, refused: Run
) -> None:
    collection = open_client(source).create_collection("wide", embedding_function=MockEmbeddingFunction(8))
    collection.add(ids=["a"], embeddings=list(unit_vectors(1, 12)))
    assert "stores 12-d vectors, and its own function makes 8-d ones" in refused("query", "x", "--path", source)


def test_a_server_is_listed_and_asked_like_a_folder(port: int, command: Run) -> None:
    import chromadb

    client = chromadb.HttpClient("127.0.0.1", port)
    client.create_collection("served", embedding_function=MockEmbeddingFunction(8)).add(ids=["a"], documents=["dough"])
    server = ("--host", "127.0.0.1", "--port", port)
    assert "served" in command("collections", *server)
    assert command("query", "dough", *server, "--collection", "served") == " 1.0000  a  dough\n"

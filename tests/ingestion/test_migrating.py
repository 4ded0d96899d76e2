"""A collection embedded anew by another function: everything one to one, the old one as it was, come what may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection
from chromadb.config import Settings
from ingested import contents

from chroma_mlx import IngestResult, MockEmbeddingFunction, UserProvidedFunction, ingest, migrate
from chroma_mlx.cli import main
from chroma_mlx.errors import CollectionChanged, CollectionMismatch, ConfigError, IngestStopped
from chroma_mlx.ingestion.store import Store
from chroma_mlx.pages import Page

posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
NEW_WIDTH = 4
# The process kills itself at an upsert of its own.
START = """
import os, signal, sys
from chromadb.api.models.Collection import Collection
from chroma_mlx.ingestion import preparing
preparing.FIRST_PASSAGES = preparing.LEAST_PASSAGES = 20
preparing.BATCH_S = 0.001
left, upsert = int(sys.argv[1]), Collection.upsert
def killed(*arguments, **more):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    upsert(*arguments, **more)
Collection.upsert = killed
from chroma_mlx.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run(client: ClientAPI, width: int = NEW_WIDTH, **options: Any) -> IngestResult:
    return migrate("old", "new", client=client, **{"embedding_function": MockEmbeddingFunction(width), **options})


def counts(result: IngestResult) -> dict[str, int]:
    """Those that are not 0."""
    found = result.to_dict()
    names = ("added", "updated", "unchanged", "embedded", "failed", "deleted", "carried")
    return {name: found[name] for name in names if found[name]}


def texts(collection: Collection) -> dict[str, tuple[str, dict[str, Any]]]:
    return {id: (text, metadata) for id, (text, metadata, _) in contents(collection).items()}


@pytest.fixture
def old(client: ClientAPI) -> Collection:
    """Records that another function embedded, some with metadata, one long and one with a text of white space."""
    old = client.create_collection(
        "old",
        embedding_function=MockEmbeddingFunction(8),
        metadata={"team": "search"},
        configuration={"hnsw": {"space": "ip"}},
    )
    old.add(
        ids=[f"r{number}" for number in range(30)],
        documents=[f"Text {number}. " * (400 if number == 3 else 1) for number in range(29)] + [" "],
        metadatas=[{"n": number, "on": True, "tags": ["a", "b"]} if number % 2 else None for number in range(30)],
    )
    return old


def test_ids_texts_and_metadata_are_taken_over_one_to_one_and_the_old_one_is_as_it_was(
    client: ClientAPI, old: Collection
) -> None:
    before = contents(old)
    assert counts(run(client)) == {"added": 30, "embedded": 30}
    new = client.get_collection("new")
    assert texts(new) == texts(old)
    assert contents(old) == before
    assert client.get_collection("old").metadata == {"team": "search"}
    vectors = contents(new)
    expected = MockEmbeddingFunction(NEW_WIDTH)([before["r3"][0]])[0]
    assert vectors["r3"][2] == np.asarray(expected, dtype=np.float32).tobytes()
    assert (new.metadata or {})["team"] == "search"
    assert new.configuration_json["hnsw"]["space"] == "ip"


def test_uris_are_taken_over_and_a_new_one_without_embedding(client: ClientAPI, old: Collection) -> None:
    old.update(ids=["r1"], uris=["file:one"])
    run(client)
    old.update(ids=["r1", "r2"], uris=["file:other", "file:two"])
    assert counts(run(client)) == {"updated": 2, "unchanged": 28}
    found = client.get_collection("new").get(ids=["r1", "r2", "r4"], include=["uris"])
    uris = dict(zip(found["ids"], found["uris"] or [], strict=True))
    assert uris == {"r1": "file:other", "r2": "file:two", "r4": None}
    assert counts(run(client)) == {"unchanged": 30}


def test_a_second_run_does_nothing(client: ClientAPI, old: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    run(client)
    for name in ("add", "upsert", "update", "delete", "modify"):
        monkeypatch.setattr(Collection, name, None)
    assert counts(run(client)) == {"unchanged": 30}


def test_what_was_edited_since_is_embedded_and_other_metadata_are_replaced_without(
    client: ClientAPI, old: Collection
) -> None:
    run(client)
    old.update(ids=["r1", "r2"], documents=["edited", "edited too"])
    old.update(ids=["r5"], metadatas=[{"on": None, "n": 6}])
    old.add(ids=["more"], documents=["more"])
    assert counts(run(client)) == {"added": 1, "updated": 3, "embedded": 3, "unchanged": 27}
    assert texts(client.get_collection("new")) == texts(old)
    assert texts(old)["r5"][1] == {"n": 6, "tags": ["a", "b"]}


def test_a_record_without_a_text_is_refused_and_the_rest_goes_on(
    client: ClientAPI, old: Collection, tmp_path: Path
) -> None:
    old.add(ids=["vector"], embeddings=[[1.0] * 8])
    result = run(client, rejects=tmp_path / "bad.jsonl")
    assert counts(result) == {"added": 30, "embedded": 30, "failed": 1}
    [line] = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert (line["source"], line["id"]) == ("old", "vector")
    assert "no text, only a vector of another model" in line["reason"]
    assert "vector" not in contents(client.get_collection("new"))


def test_records_of_an_ingest_are_known_to_the_next_one(client: ClientAPI, tmp_path: Path) -> None:
    records = [{"id": f"r{number}", "text": f"Text {number}."} for number in range(5)]
    ingest(records, "old", client=client, embedding_function=MockEmbeddingFunction(8))
    run(client)
    again = ingest(records, "new", client=client, embedding_function=MockEmbeddingFunction(NEW_WIDTH))
    assert counts(again) == {"unchanged": 5}


def test_a_run_without_a_model_goes_on_with_that_of_the_new_collection(
    client: ClientAPI, old: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(client)
    monkeypatch.delenv("CHROMA_MLX_MODE")
    monkeypatch.delenv("CHROMA_MLX_DIMENSION")
    assert counts(run(client, embedding_function=None)) == {"unchanged": 30}


def test_vectors_that_were_made_elsewhere_are_replaced_by_those_of_the_texts(client: ClientAPI) -> None:
    own = client.create_collection("own", embedding_function=UserProvidedFunction())
    own.add(ids=["a"], documents=["one"], embeddings=[[1.0, 0.0]])
    assert counts(migrate("own", "new", client=client)) == {"added": 1, "embedded": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("old", "old"), "'old' cannot be embedded into itself"),
        (("gone", "new"), r"There is no collection 'gone'\. There are 'old'"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_made(
    names: tuple[str, str], message: str, client: ClientAPI, old: Collection
) -> None:
    with pytest.raises(ConfigError, match=message):
        migrate(*names, client=client)
    assert [handle.name for handle in client.list_collections()] == ["old"]


class Foreign(chromadb.EmbeddingFunction[Any]):
    """A function that is none of this project's."""

    def __init__(self) -> None:
        pass

    def __call__(self, input: Any) -> Any:
        return [np.ones(3, dtype=np.float32) for _ in input]

    @staticmethod
    def name() -> str:
        return "foreign_of_tests"

    def get_config(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Foreign:
        return Foreign()


@pytest.mark.parametrize("function", [MockEmbeddingFunction(16), Foreign()], ids=["mock", "foreign"])
def test_a_new_collection_of_another_function_is_refused_and_nothing_is_written(
    function: Any, client: ClientAPI, old: Collection
) -> None:
    client.create_collection("new", embedding_function=MockEmbeddingFunction(8)).add(ids=["x"], documents=["x"])
    with pytest.raises((CollectionMismatch, ValueError), match="Collection 'new'"):
        run(client, embedding_function=function)
    assert list(contents(client.get_collection("new"))) == ["x"]
    assert {handle.name for handle in client.list_collections()} == {"old", "new"}


def test_a_function_of_any_kind_embeds(client: ClientAPI, old: Collection) -> None:
    assert counts(run(client, embedding_function=Foreign())) == {"added": 30, "embedded": 30}
    assert counts(run(client, embedding_function=Foreign())) == {"unchanged": 30}


def test_a_database_that_fails_ends_it_and_the_next_run_goes_on(
    client: ClientAPI, old: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.FIRST_PASSAGES", 10)
    upsert, calls = Collection.upsert, [0]

    def failing(self: Collection, *arguments: Any, **more: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError("disk I/O error")
        upsert(self, *arguments, **more)

    monkeypatch.setattr(Collection, "upsert", failing)
    with pytest.raises(IngestStopped, match="disk I/O error"):
        run(client)
    assert counts(run(client)) == {"added": 20, "embedded": 20, "unchanged": 10}
    assert texts(client.get_collection("new")) == texts(old)


def test_a_removal_and_an_addition_while_it_is_read_are_noticed(
    client: ClientAPI, old: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.store.RECORDS_A_CALL", 10)
    read = Store.pages

    def pages(self: Store, **options: Any) -> Iterator[Page]:
        for number, page in enumerate(read(self, **options)):
            yield page
            if number == 0:
                old.delete(ids=["r0"])
                old.add(ids=["more"], documents=["more"])

    with monkeypatch.context() as patched:
        patched.setattr(Store, "pages", pages)
        with pytest.raises(CollectionChanged, match="some after the first 10 would be missed"):
            run(client)
    run(client)
    new = texts(client.get_collection("new"))
    assert {id: new[id] for id in texts(old)} == texts(old)


def database(folder: Path) -> Any:
    return chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))


@posix
def test_killed_in_the_middle_it_goes_on_and_embeds_only_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = database(tmp_path / "db")
    old = client.create_collection("old", embedding_function=MockEmbeddingFunction(16))
    old.add(ids=[f"r{number}" for number in range(300)], documents=[f"Text {number}." for number in range(300)])
    expected = texts(old)
    client.close()
    arguments = ["migrate", "--collection", "old", "--to", "new", "--path", str(tmp_path / "db"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", START, "3", *arguments], env=dict(os.environ), cwd=tmp_path, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["unchanged"] >= 40
    assert summary["unchanged"] + summary["added"] == 300
    assert summary["embedded"] == summary["added"] > 0
    client = database(tmp_path / "db")
    assert texts(client.get_collection("new")) == expected
    client.close()


def test_the_command_says_with_3_that_something_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = database(tmp_path / "db")
    client.create_collection("old").add(ids=["a", "b"], documents=["one", None], embeddings=[[1.0], [2.0]])
    client.close()
    arguments = ["migrate", "--collection", "old", "--to", "new", "--path", str(tmp_path / "db")]
    assert main(arguments) == 3
    printed = capsys.readouterr().out
    assert "Collection new: 1 passages embedded" in printed
    assert "Refused, with reasons: new.rejects.jsonl" in printed


def test_a_folder_without_a_database_is_refused_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["migrate", "--collection", "old", "--to", "new", "--path", str(tmp_path / "none")]
    assert main(arguments) == 1
    assert "There is no Chroma database in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

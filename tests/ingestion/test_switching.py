"""Another model: all is embedded anew into a new collection, which takes the name at the end, come what may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection
from ingested import contents, numbered, write_jsonl

from chroma_mlx import IngestResult, MockEmbeddingFunction, ingest
from chroma_mlx.errors import CollectionChanged, CollectionMismatch
from chroma_mlx.ingestion.diff import Change
from chroma_mlx.ingestion.store import Store
from chroma_mlx.router.matching import FINGERPRINT_KEY


class Killed(BaseException):
    """As if the process ended here."""


def killed(**arguments: Any) -> None:
    raise Killed("ends here")


def run(given: Any, client: ClientAPI, width: int, **options: Any) -> IngestResult:
    options = {"id_column": "id", "embedding_function": MockEmbeddingFunction(width), **options}
    return ingest(given, "notes", client=client, **options)


def state(client: ClientAPI) -> dict[str, int]:
    """How wide the vectors of each collection are, by its name without the number."""
    found = {}
    for handle in client.list_collections():
        [vector] = handle.get(limit=1, include=["embeddings"])["embeddings"]
        found[handle.name.rsplit("-", 1)[0]] = len(vector)
    return found


@pytest.fixture
def file(client: ClientAPI, folder: Path) -> Path:
    """Twenty records, ingested in 8 dimensions."""
    file = write_jsonl(folder / "a.jsonl", numbered(20))
    run(file, client, 8)
    return file


def test_all_is_embedded_anew_and_the_old_collection_is_kept(client: ClientAPI, file: Path) -> None:
    result = run(file, client, 4)
    assert (result.added, result.embedded, result.collection) == (20, 20, "notes")
    assert result.replaced is not None
    assert f"is kept as {result.replaced!r}" in result.notes[0]
    assert state(client) == {"notes": 4, "notes.before": 8}
    assert run(file, client, 4).unchanged == 20
    assert client.get_collection("notes").query(query_texts=["Record 3 is of thing 3."])["ids"][0][0] == "r3"


def test_back_and_forth_keeps_each_under_a_name_of_its_own(client: ClientAPI, file: Path) -> None:
    assert len({run(file, client, width).replaced for width in (4, 8, 4)}) == 3
    assert len(client.list_collections()) == 4


def test_without_a_model_an_existing_collection_keeps_its_own(
    client: ClientAPI, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHROMA_MLX_MODE")
    monkeypatch.delenv("CHROMA_MLX_DIMENSION")
    result = ingest(file, "notes", client=client, id_column="id", recheck=True)
    assert (result.unchanged, result.replaced) == (20, None)


def test_a_model_in_the_configuration_is_asked_for(
    client: ClientAPI, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_MLX_DIMENSION", "16")
    assert ingest(file, "notes", client=client, id_column="id").replaced is not None
    assert state(client)["notes"] == 16


def test_what_other_programs_and_ingests_put_there_is_carried_over(client: ClientAPI, file: Path, folder: Path) -> None:
    notes = client.get_collection("notes")
    notes.add(ids=["mine"], documents=["my own"], metadatas=[{"by": "hand"}])
    notes.update(ids=["mine"], uris=["file:mine"])
    notes.modify(metadata={**(notes.metadata or {}), "team": "search"})
    run(write_jsonl(folder / "b.jsonl", [{"id": "b", "text": "b"}]), client, 8)
    result = run(file, client, 4)
    assert (result.added, result.carried, result.embedded) == (20, 2, 22)
    stored = contents(client.get_collection("notes"))
    assert (stored["mine"][0], stored["mine"][1]) == ("my own", {"by": "hand"})
    assert stored["b"][1]["source"] == str(folder / "b.jsonl")
    assert client.get_collection("notes").get(ids=["mine"], include=["uris"])["uris"] == ["file:mine"]
    assert (client.get_collection("notes").metadata or {})["team"] == "search"


def test_what_was_edited_or_deleted_while_a_change_of_model_was_interrupted_is_so_in_the_new_one(
    client: ClientAPI, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = client.get_collection("notes")
    notes.add(ids=["edited", "deleted", "moved"], documents=["before", "gone", "same"], metadatas=[{"n": 1}] * 3)
    with monkeypatch.context() as patched:
        patched.setattr("chroma_mlx.ingestion.run.switch", killed)
        with pytest.raises(Killed, match="ends here"):
            run(file, client, 4)
    notes.update(ids=["edited", "moved"], documents=["after", "same"], metadatas=[{"n": 1}, {"n": None, "m": 2}])
    notes.delete(ids=["deleted"])
    assert (run(file, client, 4).carried, state(client)["notes"]) == (2, 4)
    stored = contents(client.get_collection("notes"))
    assert {id: stored.get(id, ("",))[0] for id in ("edited", "deleted", "moved")} == {
        "edited": "after",
        "deleted": "",
        "moved": "same",
    }
    assert stored["moved"][1] == {"m": 2}
    assert len(stored) == 22


def test_a_damaged_fingerprint_is_not_taken_for_another_model(client: ClientAPI, file: Path) -> None:
    notes = client.get_collection("notes")
    notes.modify(metadata={**(notes.metadata or {}), FINGERPRINT_KEY: "{"})
    write_jsonl(file, numbered(21))
    with pytest.raises(CollectionMismatch, match="'notes' has a damaged fingerprint"):
        ingest(file, "notes", client=client, id_column="id")
    assert state(client) == {"notes": 8}


def test_a_removal_while_records_are_carried_over_is_noticed_and_nothing_is_switched(
    client: ClientAPI, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = client.get_collection("notes")
    notes.add(ids=["one", "two", "three"], documents=["one", "two", "three"])
    monkeypatch.setattr("chroma_mlx.ingestion.store.RECORDS_A_CALL", 21)
    put = Store.put

    def putting(self: Store, changes: Sequence[Change], vectors: Any) -> None:
        put(self, changes, vectors)
        if changes and changes[0].passage.id == "one":
            notes.delete(ids=["r0"])

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put", putting)
        with pytest.raises(CollectionChanged, match="some after the first 21 would be missed"):
            run(file, client, 4)
    assert state(client)["notes"] == 8
    run(file, client, 4)
    assert {"one", "two", "three"} < set(contents(client.get_collection("notes")))


def test_what_only_an_interrupted_run_had_read_is_not_in_the_new_one(
    client: ClientAPI, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("chroma_mlx.ingestion.run.switch", killed)
        with pytest.raises(Killed, match="ends here"):
            run(write_jsonl(file, numbered(25)), client, 4)
    run(write_jsonl(file, numbered(20)), client, 4)
    assert len(contents(client.get_collection("notes"))) == 20


class Refusing(EmbeddingFunction[Documents]):
    """A function of another library, which fails for one text."""

    def __init__(self) -> None:
        pass

    def __call__(self, input: Documents) -> Embeddings:
        return [np.array([len(text), np.nan if text == "too much" else 1.0], np.float32) for text in input]

    @staticmethod
    def name() -> str:
        return "refusing-of-tests"

    def get_config(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Refusing:
        return Refusing()


def test_what_the_new_model_refuses_stays_in_the_old_collection_and_the_summary_says_so(
    client: ClientAPI, file: Path
) -> None:
    client.get_collection("notes").add(ids=["refused"], documents=["too much"])
    result = run(file, client, 4, embedding_function=Refusing())
    assert (result.failed, result.rejects[0].id) == (1, "refused")
    assert result.notes[1] == f"Something was refused: what the model cannot take is in {result.replaced!r} alone."
    assert result.replaced is not None
    assert "refused" in contents(client.get_collection(result.replaced))
    assert "refused" not in contents(client.get_collection("notes"))


def test_passages_of_another_cut_and_what_is_gone_are_not_carried_over(client: ClientAPI, folder: Path) -> None:
    text = " ".join(f"word{number}" for number in range(300))
    file = write_jsonl(folder / "a.jsonl", [{"id": "long", "text": text}, {"id": "gone", "text": "gone"}])
    run(file, client, 8, passage_tokens=100)
    write_jsonl(file, [{"id": "long", "text": "short"}])
    run(file, client, 4, sync=True)
    assert set(contents(client.get_collection("notes"))) == {"long"}


def test_a_record_without_a_text_ends_it_and_nothing_is_switched(client: ClientAPI, file: Path) -> None:
    client.get_collection("notes").add(ids=["vector"], embeddings=[[1.0] * 8])
    with pytest.raises(CollectionMismatch, match="'vector' of the collection has no text"):
        run(file, client, 4)
    assert state(client)["notes"] == 8
    client.get_collection("notes").delete(ids=["vector"])
    assert run(file, client, 4).unchanged == 20
    assert state(client) == {"notes": 4, "notes.before": 8}


# The file's passages, the one that is carried over, ready, the two names, not ready, the mark of a whole run.
STEPS = 7


@pytest.mark.parametrize("step", range(STEPS))
def test_an_interruption_at_any_step_is_healed_and_the_name_leads_to_a_whole_collection(
    step: int, client: ClientAPI, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get_collection("notes").add(ids=["mine"], documents=["my own"])
    expected = {id: text for id, (text, _, _) in contents(client.get_collection("notes")).items()}
    calls = [0]

    def interrupted(original: Any) -> Any:
        def call(self: Collection, *arguments: Any, **more: Any) -> None:
            if calls[0] == step:
                raise Killed("ends here")
            calls[0] += 1
            original(self, *arguments, **more)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Collection, "modify", interrupted(Collection.modify))
        patched.setattr(Collection, "upsert", interrupted(Collection.upsert))
        with pytest.raises(Killed, match="ends here"):
            run(file, client, 4)
    run(file, client, 4, recheck=True)
    stored = contents(client.get_collection("notes"))
    assert {id: text for id, (text, _, _) in stored.items()} == expected
    assert {len(vector) for _, _, vector in stored.values()} == {4 * 4}
    assert state(client) == {"notes": 4, "notes.before": 8}

"""What a run does, and what the next one does: counts, ids, edits, deletions, rejects, duplicates."""

from __future__ import annotations

import gc
import io
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.api import ClientAPI
from ingested import contents, numbered, write_jsonl

from chroma_mlx import EmbeddingRouter, IngestResult, MLXEmbeddingFunction, MockEmbeddingFunction, ingest
from chroma_mlx.cli import main
from chroma_mlx.errors import ConfigError, EngineError, IngestStopped, InputError, MissingPackage
from chroma_mlx.ingestion.making import FunctionMaker
from chroma_mlx.ingestion.passage import Passage
from chroma_mlx.ingestion.seen import Seen
from chroma_mlx.ingestion.sources import Sources
from chroma_mlx.ingestion.store import Store
from chroma_mlx.router import Record


def run(given: Any, client: ClientAPI, **options: Any) -> IngestResult:
    return ingest(given, "notes", client=client, **options)


def counts(result: IngestResult) -> dict[str, int]:
    names = ("added", "updated", "unchanged", "deleted", "failed")
    return {name: getattr(result, name) for name in names if getattr(result, name)}


def ids(client: ClientAPI) -> set[str]:
    return set(client.get_collection("notes").get(include=[])["ids"])


def long_text(name: str, paragraphs: int = 30) -> str:
    return "\n\n".join(
        f"Paragraph {number} of {name} says so many words that it counts." for number in range(paragraphs)
    )


def test_records_and_documents_are_stored_with_where_they_are_from(client: ClientAPI, folder: Path) -> None:
    write_jsonl(folder / "a.jsonl", [{"text": "one", "n": 1}])
    (folder / "deep").mkdir()
    (folder / "deep/guide.md").write_text(f"# Guide\n\n{long_text('it')}\n\n## End\n\nThe end.\n")
    result = run(folder, client, base=folder, passage_tokens=100)
    stored = contents(client.get_collection("notes"))
    text, metadata, _ = stored["a.jsonl:1"]
    assert (text, metadata["source"], metadata["line"], metadata["n"]) == ("one", "a.jsonl", 1, 1)
    passages = result.added - 1
    assert passages > 3
    assert {f"deep/guide.md#{number}" for number in range(1, passages + 1)} < set(stored)
    last = stored[f"deep/guide.md#{passages}"][1]
    assert (last["passage"], last["passages"], last["source"]) == (passages, passages, "deep/guide.md")
    assert last["heading"] == "Guide > End" or "The end." in stored[f"deep/guide.md#{passages}"][0]


def test_nothing_is_looked_up_in_a_collection_that_was_empty(
    client: ClientAPI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    look_up = Store.look_up

    def noting(self: Store, ids: Any) -> Any:
        looked_up.append(len(ids))
        return look_up(self, ids)

    monkeypatch.setattr(Store, "look_up", noting)
    file = write_jsonl(folder / "a.jsonl", numbered(3))
    run(file, client, id_column="id")
    assert looked_up == []
    run(file, client, id_column="id", recheck=True)
    assert looked_up == [6]


def test_the_stored_vector_is_the_functions(client: ClientAPI, folder: Path) -> None:
    run(write_jsonl(folder / "a.jsonl", numbered(3)), client, id_column="id")
    found = client.get_collection("notes").get(["r1"], include=["embeddings", "documents"])
    expected = MockEmbeddingFunction(8).encode([found["documents"][0]])[0]  # type: ignore[index]
    assert np.abs(np.asarray(found["embeddings"][0]) - expected).max() < 1e-6  # type: ignore[index]


def test_only_an_edited_record_is_embedded_again(client: ClientAPI, folder: Path) -> None:
    rows = numbered(50)
    file = write_jsonl(folder / "a.jsonl", rows)
    assert counts(run(file, client, id_column="id")) == {"added": 50}
    rows[7]["text"] = "edited"
    write_jsonl(file, rows)
    result = run(file, client, id_column="id")
    assert counts(result) == {"updated": 1, "unchanged": 49}
    assert result.embedded == 1
    assert contents(client.get_collection("notes"))["r7"][0] == "edited"


def test_of_edits_that_are_far_apart_only_the_edited_records_are_held(
    client: ClientAPI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.DOCUMENTS_A_BLOCK", 10)
    held: list[int] = []

    class Noting(Counting):
        def __call__(self, input: Documents) -> Embeddings:
            held.append(sum(isinstance(each, Passage) for each in gc.get_objects()))
            return super().__call__(input)

    rows = [{"id": f"r{number}", "text": f"{number}\n\n{long_text('it', 8)}"} for number in range(100)]
    file = write_jsonl(folder / "a.jsonl", rows)
    options: dict[str, Any] = {"id_column": "id", "passage_tokens": 60}
    passages = run(file, client, embedding_function=Noting(), **options).added
    assert passages >= 300
    for row in rows[::10]:
        row["text"] = f"edited {row['text']}"
    write_jsonl(file, rows)
    held.clear()
    gc.collect()  # what the errors of other tests still hold
    result = run(file, client, embedding_function=Noting(), **options)
    assert counts(result) == {"updated": 10, "unchanged": passages - 10}
    assert max(held) <= 60, f"{max(held)} passages were held, of which 10 were edited"


def test_other_metadata_is_stored_without_embedding(client: ClientAPI, folder: Path) -> None:
    file = write_jsonl(folder / "a.jsonl", [{"id": "a", "text": "one", "old": 1, "kept": 1}])
    run(file, client, id_column="id")
    write_jsonl(file, [{"id": "a", "text": "one", "kept": 2}])
    result = run(file, client, id_column="id")
    assert (counts(result), result.embedded) == ({"updated": 1}, 0)
    metadata = contents(client.get_collection("notes"))["a"][1]
    assert metadata["kept"] == 2
    assert "old" not in metadata


def test_a_record_that_gets_shorter_or_longer_leaves_no_passage_behind(client: ClientAPI, folder: Path) -> None:
    file = folder / "a.txt"
    options: dict[str, Any] = {"base": folder, "passage_tokens": 60}
    file.write_text(long_text("a"))
    run(file, client, **options)
    assert len(ids(client)) > 4
    file.write_text("Short now.")
    run(file, client, **options)
    assert ids(client) == {"a.txt"}
    file.write_text(long_text("a", 8))
    run(file, client, **options)
    assert ids(client) == {f"a.txt#{number}" for number in range(1, len(ids(client)) + 1)}


def test_what_is_gone_stays_without_sync_and_goes_with_it(client: ClientAPI, folder: Path) -> None:
    file = write_jsonl(folder / "a.jsonl", numbered(5))
    (folder / "b.txt").write_text("A text.")
    run(folder, client, id_column="id")
    write_jsonl(file, numbered(3))
    (folder / "b.txt").unlink()
    assert counts(run(folder, client, id_column="id")) == {"unchanged": 3}
    assert counts(run(folder, client, id_column="id", sync=True)) == {"unchanged": 3, "deleted": 3}
    assert ids(client) == {"r0", "r1", "r2"}


def test_sync_leaves_other_sources_and_other_peoples_records_alone(
    client: ClientAPI, folder: Path, tmp_path: Path
) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "other", "text": "other"}])
    run(other, client, id_column="id")
    run(write_jsonl(folder / "a.jsonl", numbered(2)), client, id_column="id")
    client.get_collection("notes").add(
        ids=["mine"], documents=["mine"], metadatas=[{"source": str(folder / "a.jsonl")}]
    )
    write_jsonl(folder / "a.jsonl", numbered(1))
    assert counts(run(folder, client, id_column="id", sync=True)) == {"unchanged": 1, "deleted": 1}
    assert ids(client) == {"other", "mine", "r0"}


def test_sync_with_a_base_leaves_files_elsewhere_alone_that_were_named_without(
    client: ClientAPI, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    for file in (other, folder / "a.txt"):
        file.write_text("one")
    run(other, client)
    assert counts(run(folder, client, base=folder, sync=True)) == {"added": 1}
    assert ids(client) == {str(other), "a.txt"}


def test_sync_leaves_files_alone_that_the_globs_would_not_read(client: ClientAPI, folder: Path) -> None:
    for name in ("a.md", "b.txt"):
        (folder / name).write_text(name)
    run(folder, client, base=folder)
    (folder / "a.md").unlink()
    (folder / "c.md").write_text("c")
    assert counts(run(folder, client, base=folder, globs=["*.md"], sync=True)) == {"added": 1, "deleted": 1}
    assert ids(client) == {"b.txt", "c.md"}


def test_sync_leaves_files_alone_that_are_read_only_when_they_are_named(
    client: ClientAPI, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/linked.txt").write_text("linked")
    (folder / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / ".deep").mkdir()
    apart = [folder / name for name in (".draft.txt", ".deep/deep.txt", "no-ending")]
    for file in [*apart, folder / "seen.txt", folder / "gone.txt"]:
        file.write_text("one")
    run([*apart, folder / "gone.txt"], client, base=folder, format="text")
    run(folder / "link", client, base=folder)
    (folder / "gone.txt").unlink()
    options: dict[str, Any] = {"base": folder, "globs": ["*"], "sync": True}
    assert counts(run(folder, client, **options)) == {"added": 1, "deleted": 1}
    assert ids(client) == {".draft.txt", ".deep/deep.txt", "no-ending", "link/linked.txt", "seen.txt"}
    (folder / "link").unlink()  # now it is gone, not only unread
    assert counts(run(folder, client, recheck=True, **options)) == {"unchanged": 1, "deleted": 1}


def test_whether_a_source_is_covered_takes_no_look_at_every_file_that_was_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [folder / f"{number}.txt" for number in range(50)]
    for file in files:
        file.write_text("one")
    sources = Sources(named=tuple(map(str, files)))
    looks: list[Any] = []
    abspath = os.path.abspath
    monkeypatch.setattr(os.path, "abspath", lambda path: looks.append(path) or abspath(path))
    covered = [name for name in [*map(str, files), str(folder / "other.txt")] if sources.covers(name)]
    assert (covered, looks) == ([str(file) for file in files], [])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_a_file_whose_name_is_no_text_is_refused(client: ClientAPI, folder: Path) -> None:
    (folder / "fine.txt").write_text("one")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("two")
    result = run(folder, client)
    assert counts(result) == {"added": 1, "failed": 1}
    assert result.rejects[0].reason == "its name has no UTF-8 form; rename it"


def test_any_character_goes_there_and_back(client: ClientAPI) -> None:
    rows = [
        {"id": f"x{mark}y", "text": f"a{mark}b", "c": f"d{mark}e"}
        for mark in ("\u2028", "\x85", "\x01", "👩‍🚀", "'", "\\")
    ]
    assert counts(run(rows, client)) == {"added": len(rows)}
    assert counts(run(rows, client)) == {"unchanged": len(rows)}
    stored = contents(client.get_collection("notes"))
    assert {(id, text, metadata["c"]) for id, (text, metadata, _) in stored.items()} == {
        (row["id"], row["text"], row["c"]) for row in rows
    }


def test_sync_deletes_nothing_that_a_refused_record_may_stand_for(client: ClientAPI, folder: Path) -> None:
    file = write_jsonl(folder / "a.jsonl", numbered(4))
    run(file, client, id_column="id")
    write_jsonl(file, [*numbered(2), {"id": "r2", "text": ""}])
    assert counts(run(file, client, id_column="id", sync=True)) == {"unchanged": 2, "failed": 1, "deleted": 1}
    assert ids(client) == {"r0", "r1", "r2"}
    write_jsonl(file, [*numbered(1), "not json"])
    result = run(file, client, id_column="id", sync=True)
    assert counts(result) == {"unchanged": 1, "failed": 1}
    assert f"Nothing of {file} was deleted" in result.notes[0]


@pytest.mark.parametrize("id_column", ["id", None])
def test_sync_deletes_no_rows_behind_a_quote_that_is_not_closed(
    client: ClientAPI, folder: Path, id_column: str | None
) -> None:
    file = folder / "a.csv"
    file.write_text("id,text\n1,one\n2,two\n3,three\n")
    run(file, client, id_column=id_column)
    before = contents(client.get_collection("notes"))
    file.write_text('id,text\n1,"one\n2,two\n3,three\n')
    assert counts(run(file, client, id_column=id_column, sync=True)) == {"failed": 1}
    assert contents(client.get_collection("notes")) == before


def test_a_file_that_cannot_be_read_keeps_its_passages(client: ClientAPI, folder: Path) -> None:
    (folder / "a.txt").write_text("A text.")
    run(folder, client)
    (folder / "a.txt").write_bytes(b"\xff")
    assert counts(run(folder, client, sync=True)) == {"failed": 1}
    assert len(ids(client)) == 1


def test_bad_records_go_to_the_file_of_rejects_and_the_run_goes_on(client: ClientAPI, folder: Path) -> None:
    rows = [{"id": "a", "text": "one"}, "{", {"id": "b", "text": "two"}, {"id": "c", "text": " "}]
    result = run(write_jsonl(folder / "a.jsonl", rows), client, id_column="id", rejects=folder / "bad.jsonl")
    assert counts(result) == {"added": 2, "failed": 2}
    lines = [json.loads(line) for line in (folder / "bad.jsonl").read_text().splitlines()]
    assert [(line["line"], line["id"], line["record"]) for line in lines] == [
        (2, None, "{"),
        (4, "c", '{"id": "c", "text": " "}'),
    ]
    assert lines[1]["reason"] == "its text, column 'text', is empty"
    assert counts(run(folder, client, id_column="id", rejects=folder / "bad.jsonl")) == {"unchanged": 2, "failed": 2}


def test_the_second_of_an_id_is_refused_every_time(client: ClientAPI, folder: Path) -> None:
    write_jsonl(folder / "a.jsonl", [{"id": "x", "text": "one"}, {"id": "y", "text": "two"}, {"id": "x", "text": "no"}])
    write_jsonl(folder / "b.jsonl", [{"id": "y", "text": "no"}])
    for expected in ({"added": 2, "failed": 2}, {"unchanged": 2, "failed": 2}):
        result = run(folder, client, id_column="id")
        assert counts(result) == expected
        reasons = [reject.reason for reject in result.rejects]
        assert f"was that of an earlier record ({folder / 'a.jsonl'}, 1)" in reasons[0]
    assert contents(client.get_collection("notes"))["x"][0] == "one"


def test_of_a_refused_record_only_the_beginning_is_held(client: ClientAPI) -> None:
    result = run([{"id": "x", "text": long_text("x", 100)}] * 2, client)
    assert result.rejects[0].excerpt == long_text("x", 100)[:2000]


def test_a_record_named_as_a_passage_of_another_is_refused(client: ClientAPI, folder: Path) -> None:
    rows = [{"id": "x", "text": long_text("x")}, {"id": "x#1", "text": "one"}]
    result = run(write_jsonl(folder / "a.jsonl", rows), client, id_column="id", passage_tokens=60)
    assert result.failed == 1
    assert "its id 'x#1' was that of an earlier record" in result.rejects[0].reason


def test_records_in_memory_are_read_as_they_come(client: ClientAPI) -> None:
    items = iter([{"id": "a", "text": "one", "metadata": {"n": 1}}, Record("b", text="two"), "three"])
    assert counts(run(items, client, source="memory")) == {"added": 3}
    stored = contents(client.get_collection("notes"))
    assert set(stored) == {"a", "b", "memory:3"}
    assert (stored["a"][1]["n"], stored["a"][1]["source"]) == (1, "memory")
    assert counts(run([{"id": "a", "text": "one", "n": 1}], client, source="memory", sync=True)) == {
        "unchanged": 1,
        "deleted": 2,
    }


def test_the_metadata_of_a_record_say_nothing_of_its_id_and_text(client: ClientAPI) -> None:
    caption = {"id": 42, "text": "caption"}
    given = [Record("a", text="one", metadata=caption), {"id": "b", "text": "two", "metadata": caption}]
    assert counts(run(given, client)) == {"added": 2}
    stored = contents(client.get_collection("notes"))
    assert {id: text for id, (text, _, _) in stored.items()} == {"a": "one", "b": "two"}
    assert all(metadata.items() > caption.items() for _, metadata, _ in stored.values())


def test_a_column_and_a_key_of_the_metadata_of_one_name_are_refused(client: ClientAPI) -> None:
    result = run([{"id": "a", "text": "one", "n": 1, "metadata": {"n": 2}}], client)
    assert counts(result) == {"failed": 1}
    assert "its metadata have the key 'n', as which a column is named" in result.rejects[0].reason


def test_an_error_of_what_the_records_are_read_from_is_raised_as_it_is(client: ClientAPI) -> None:
    def rows() -> Iterator[str]:
        yield "one"
        raise sqlite3.ProgrammingError("a connection of another thread")

    with pytest.raises(sqlite3.ProgrammingError, match="a connection of another thread"):
        run(rows(), client)


def test_a_failure_of_the_temporary_file_says_where_it_is() -> None:
    with Seen() as seen:
        seen._file.execute("DROP TABLE seen")
        with pytest.raises(IngestStopped, match=r"its temporary file in .*: no such table"):
            seen.claimed("x")
    with Seen() as seen:
        seen._file.execute("DROP TABLE gone")
        with pytest.raises(IngestStopped, match=r"its temporary file in .*: no such table"):
            list(seen.take_gone(1))


def test_a_record_with_a_uri_is_refused(client: ClientAPI) -> None:
    result = run([Record("a", text="one", uri="file:one"), Record("b", text="two")], client)
    assert counts(result) == {"added": 1, "failed": 1}
    assert (result.rejects[0].id, "put it into the metadata" in result.rejects[0].reason) == ("a", True)


def test_standard_input_is_a_source(client: ClientAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    for expected in ({"added": 2}, {"unchanged": 2}):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "one"}\n{"text": "two"}\n')))
        assert counts(run([Path("-")], client, format="jsonl")) == expected
    assert ids(client) == {"-:1", "-:2"}


def test_globs_choose_the_files_of_a_folder(client: ClientAPI, folder: Path) -> None:
    for name in ("a.txt", "b.md", "c.log", ".hidden.txt"):
        (folder / name).write_text(name)
    run(folder, client, base=folder)
    assert ids(client) == {"a.txt", "b.md"}
    run(folder, client, base=folder, globs=["*.log"], format="text")
    assert ids(client) == {"a.txt", "b.md", "c.log"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "docx"}, "format is 'docx', which is not known"),
        ({"base": "elsewhere"}, "is not below the base"),
        ({"globs": ["*.nothing"]}, "There is nothing to ingest"),
        ({"retry_seconds": -1}, "retry_seconds is -1"),
        ({"passage_tokens": 10, "overlap_tokens": 6}, "at most half of it"),
        ({"rejects": "no/such/folder/file"}, "There is no folder"),
        ({"model": "x", "embedding_function": MockEmbeddingFunction(8)}, "Pass one or the other"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    options: dict[str, Any], message: str, client: ClientAPI, folder: Path
) -> None:
    (folder / "a.txt").write_text("one")
    with pytest.raises((ConfigError, InputError), match=message):
        run(folder, client, **options)
    assert client.list_collections() == []


def test_passages_that_the_model_does_not_take_are_refused_before_anything_is_made(
    client: ClientAPI, folder: Path
) -> None:
    (folder / "a.txt").write_text("one")
    function = MLXEmbeddingFunction(model_name="builtin", dimension=64)
    with pytest.raises(ConfigError, match="Passages of 100000 tokens are longer than the model takes"):
        run(folder, client, embedding_function=function, passage_tokens=100_000)
    assert client.list_collections() == []


def test_a_source_that_is_not_there_or_has_no_known_ending_is_an_error(client: ClientAPI, folder: Path) -> None:
    with pytest.raises(InputError, match="There is no file or folder"):
        run(folder / "nothing.txt", client)
    (folder / "a.xyz").write_text("one")
    with pytest.raises(InputError, match=r"The format of .*a\.xyz' is not known"):
        run(folder / "a.xyz", client)


def test_a_mistyped_source_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "nothing.txt", "--collection", "notes", "--path", str(tmp_path / "new")]) == 1
    assert "There is no file or folder 'nothing.txt'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_the_extra_short_texts_are_ingested_and_a_long_one_names_it(
    client: ClientAPI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    (folder / "short.txt").write_text("one")
    assert counts(run(folder, client, base=folder)) == {"added": 1}
    (folder / "long.txt").write_text(long_text("it"))
    with pytest.raises(MissingPackage, match=r"semantic-text-splitter .*pip install 'chroma-mlx\[ingest\]'"):
        run(folder, client, base=folder, passage_tokens=100)
    assert ids(client) == {"short.txt"}


def test_collections_that_are_open_already_are_taken_as_they_are(client: ClientAPI) -> None:
    routed = EmbeddingRouter(mode="mock", dimension=8).collection(client, "routed")
    assert counts(ingest(["one"], routed)) == {"added": 1}
    plain = client.create_collection("plain", embedding_function=MockEmbeddingFunction(4))
    assert counts(ingest(["one"], plain)) == {"added": 1}
    assert counts(ingest(["one"], client.get_collection("plain"))) == {"unchanged": 1}


def test_a_collection_whose_vectors_are_made_elsewhere_is_refused(client: ClientAPI) -> None:
    routed = EmbeddingRouter(mode="user_provided").collection(client, "own")
    with pytest.raises(ConfigError, match="takes vectors that are made elsewhere"):
        ingest(["one"], routed)


class Counting(EmbeddingFunction[Documents]):
    """A function of another library: a letter count, in 2 dimensions."""

    def __init__(self, bad: str = "") -> None:
        self.bad, self.calls = bad, 0

    def __call__(self, input: Documents) -> Embeddings:
        self.calls += 1
        if "raise" in input:
            raise RuntimeError("no credit left")
        return [np.array([len(text), float("nan") if text == self.bad else 1.0], np.float32) for text in input]

    @staticmethod
    def name() -> str:
        return "counting-letters"

    def get_config(self) -> dict[str, Any]:
        return {"bad": self.bad}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Counting:
        return Counting(config["bad"])

    def default_space(self) -> Any:
        return "l2"


def test_any_function_of_chromas_embeds_a_batch_in_one_call(client: ClientAPI) -> None:
    function = Counting()
    assert counts(run([f"text {n}" for n in range(100)], client, embedding_function=function)) == {"added": 100}
    assert function.calls == 1
    assert counts(run([f"text {n}" for n in range(100)], client, embedding_function=Counting())) == {"unchanged": 100}


def test_no_function_of_chromas_gets_more_texts_than_a_service_takes_in_a_call() -> None:
    class Remote(Counting):
        def __call__(self, input: Documents) -> Embeddings:
            sizes.append(len(input))
            if "broken" in input:
                raise InputError("it is broken", index=input.index("broken"))
            return super().__call__(input)

    sizes: list[int] = []
    maker = FunctionMaker(Remote())
    texts = ["a" * (1 + n % 7) for n in range(600)]
    assert maker.make(texts)[:, 0].tolist() == [len(text) for text in texts]
    assert sizes == [256, 256, 88]
    with pytest.raises(InputError, match="it is broken") as found:
        maker.make([*texts, "broken"])
    assert found.value.index == 600


def test_a_bad_vector_is_a_reject_and_nothing_of_it_is_stored(client: ClientAPI) -> None:
    result = run(["fine", "broken", "well"], client, embedding_function=Counting("broken"))
    assert counts(result) == {"added": 2, "failed": 1}
    assert "holds nan at position 1" in result.rejects[0].reason
    assert ids(client) == {"records:1", "records:3"}


def test_texts_that_are_refused_do_not_make_the_others_be_embedded_again_and_again(client: ClientAPI) -> None:
    asked: list[str] = []

    class Refusing(Counting):
        def __call__(self, input: Documents) -> Embeddings:
            for index, text in enumerate(input):
                if text.startswith("bad"):
                    raise InputError(f"the text {text}", index=index)
                asked.append(text)
            return super().__call__(input)

    texts = [f"{'bad' if number % 3 else 'good'} {number}" for number in range(200)]
    result = run(texts, client, embedding_function=Refusing())
    assert counts(result) == {"added": 67, "failed": 133}
    assert result.rejects[0].reason == "the text bad 1"
    assert len(asked) <= 2 * 67
    stored: Any = client.get_collection("notes").get(include=["documents", "embeddings"])
    assert set(stored["documents"]) == {text for text in texts if text.startswith("good")}
    assert [vector[0] for vector in stored["embeddings"]] == [len(text) for text in stored["documents"]]


def test_a_function_that_fails_ends_the_run_with_what_to_do(client: ClientAPI) -> None:
    with pytest.raises(EngineError, match=r"failed on 2 texts: RuntimeError: no credit left\."):
        run(["fine", "raise"], client, embedding_function=Counting())
    assert not [each for each in threading.enumerate() if each.name.startswith("chroma-mlx-ingest")]


@pytest.mark.parametrize("slow", [True, False])
def test_a_run_that_fails_waits_for_no_further_record(
    slow: bool, client: ClientAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.DOCUMENTS_A_BLOCK", 2)
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.FIRST_PASSAGES", 2)
    monkeypatch.setattr("chroma_mlx.ingestion.pipeline.READER_LEFT_S", 0.1)
    more, taken = threading.Event(), [0]

    def records() -> Iterator[str]:
        yield from ("fine", "raise")
        while taken[0] < 100:
            more.wait(0.3 if slow else 10.0)
            taken[0] += 1
            yield f"record {taken[0]}"

    with pytest.raises(EngineError, match="no credit left"):
        run(records(), client, embedding_function=Counting())
    assert taken[0] <= (3 if slow else 0)
    more.set()
    for thread in threading.enumerate():
        if thread.name.startswith("chroma-mlx-ingest"):
            thread.join(10)
            assert not thread.is_alive()
    assert taken[0] <= (4 if slow else 1)


def test_a_database_that_fails_ends_the_run_and_the_next_goes_on(
    client: ClientAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chromadb.api.models.Collection import Collection
    from chromadb.errors import InternalError

    monkeypatch.setattr("chroma_mlx.ingestion.preparing.FIRST_PASSAGES", 10)
    upsert, calls = Collection.upsert, [0]

    def failing(self: Collection, *arguments: Any, **more: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise InternalError("disk I/O error")
        upsert(self, *arguments, **more)

    monkeypatch.setattr(Collection, "upsert", failing)
    texts = [f"text {n}" for n in range(100)]
    with pytest.raises(IngestStopped, match=r"disk I/O error\)\. What was written until then stays"):
        run(texts, client)
    stored = len(ids(client))
    assert 0 < stored < 100
    assert counts(run(texts, client)) == {"unchanged": stored, "added": 100 - stored}


@pytest.mark.parametrize("content", ["bad\n", '{"text": "mine"}\n', '{"source": "mine"}', "[1]\n"])
def test_rejects_are_never_written_over_a_file_of_the_users(client: ClientAPI, tmp_path: Path, content: str) -> None:
    source = tmp_path / "source.jsonl"
    source.write_text(content)
    with pytest.raises(ConfigError, match="is there already, and is no file of rejects"):
        ingest(source, "notes", client=client, embedding_function=MockEmbeddingFunction(8), rejects=source)
    assert source.read_text() == content


@pytest.mark.parametrize("left", [0, 5, 40])
def test_rejects_replace_a_file_whose_first_line_a_full_disk_cut(left: int, client: ClientAPI, tmp_path: Path) -> None:
    source, rejects = tmp_path / "source.jsonl", tmp_path / "rejects.jsonl"
    source.write_text("bad\n")
    run(source, client, rejects=rejects)
    whole = rejects.read_bytes()
    rejects.write_bytes(whole[:left])
    assert run(source, client, rejects=rejects).failed == 1
    assert rejects.read_bytes() == whole


def test_rejects_replace_those_of_an_earlier_run(client: ClientAPI, tmp_path: Path) -> None:
    source, rejects = tmp_path / "source.jsonl", tmp_path / "rejects.jsonl"
    source.write_text("bad\n")
    for _ in range(2):
        done = ingest(source, "notes", client=client, embedding_function=MockEmbeddingFunction(8), rejects=rejects)
        assert done.failed == 1
        assert len(rejects.read_text().splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_in_a_folder_is_not_waited_for(client: ClientAPI, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    os.mkfifo(tmp_path / "b.txt")
    done = ingest(tmp_path, "notes", client=client, embedding_function=MockEmbeddingFunction(8))
    assert (done.added, done.failed) == (1, 0)

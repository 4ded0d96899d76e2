"""The journal is a shortcut that is never wrong: whatever changed, the next run sees it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromadb.api import ClientAPI
from ingested import contents, numbered, write_jsonl

from chroma_mlx import IngestResult, MockEmbeddingFunction, ingest
from chroma_mlx.ingestion import preparing
from chroma_mlx.ingestion.passage import Document, Reject


def run(given: Path, client: ClientAPI, **options: Any) -> IngestResult:
    return ingest(given, "notes", client=client, **options)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are parsed."""
    names: list[str] = []
    parse = preparing._read_file

    def noting(file: Any, columns: Any) -> Iterator[Document | Reject]:
        names.append(os.path.basename(file.name))
        return parse(file, columns)

    monkeypatch.setattr(preparing, "_read_file", noting)
    return names


def test_what_nothing_changed_is_not_read_again(client: ClientAPI, folder: Path, read: list[str]) -> None:
    write_jsonl(folder / "a.jsonl", numbered(5))
    (folder / "b.txt").write_text("one")
    run(folder, client)
    read.clear()
    for options in ({}, {}):
        result = run(folder, client, **options)
        assert (result.unchanged, result.added, read) == (6, 0, [])


def test_of_several_files_only_the_changed_one_is_read(client: ClientAPI, folder: Path, read: list[str]) -> None:
    for name in "abc":
        (folder / f"{name}.txt").write_text(name)
    run(folder, client)
    read.clear()
    (folder / "b.txt").write_text("edited")
    result = run(folder, client)
    assert (result.unchanged, result.updated, read) == (2, 1, ["b.txt"])
    read.clear()
    assert (run(folder, client).unchanged, read) == (3, [])


def test_where_ids_are_a_column_all_files_are_read_once_one_changed(
    client: ClientAPI, folder: Path, read: list[str]
) -> None:
    write_jsonl(folder / "a.jsonl", [{"id": "x", "text": "one"}])
    write_jsonl(folder / "b.jsonl", [{"id": "y", "text": "two"}])
    run(folder, client, id_column="id")
    write_jsonl(folder / "b.jsonl", [{"id": "x", "text": "two"}])
    read.clear()
    assert run(folder, client, id_column="id").failed == 1
    assert read == ["a.jsonl", "b.jsonl"]


def edit_in_place(client: ClientAPI, file: Path) -> None:
    before = file.stat()
    file.write_bytes(file.read_bytes().replace(b"Record 1 ", b"Record X "))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def delete_some(client: ClientAPI, file: Path) -> None:
    client.get_collection("notes").delete(ids=["r1", "r2"])


def ingest_elsewhere(client: ClientAPI, file: Path) -> None:
    """By another machine, whose journal this one does not see: the same number of records, of another text."""
    content, state = file.read_bytes(), os.environ["XDG_STATE_HOME"]
    file.write_bytes(content.replace(b"thing 1", b"thing 9"))
    os.environ["XDG_STATE_HOME"] = f"{state}-elsewhere"
    run(file, client, id_column="id")
    os.environ["XDG_STATE_HOME"] = state
    file.write_bytes(content)


def make_anew(client: ClientAPI, file: Path) -> None:
    client.delete_collection("notes")


def damage_journal(client: ClientAPI, file: Path) -> None:
    (Path(os.environ["XDG_STATE_HOME"]) / "chroma-mlx/ingest.sqlite3").write_bytes(b"no database" * 100)
    client.get_collection("notes").delete(ids=["r1"])


@pytest.mark.parametrize("change", [edit_in_place, delete_some, ingest_elsewhere, make_anew, damage_journal])
def test_whatever_happened_behind_its_back_the_collection_is_as_the_file(
    change: Callable[[ClientAPI, Path], None], client: ClientAPI, folder: Path
) -> None:
    file = write_jsonl(folder / "a.jsonl", numbered(10))
    run(file, client, id_column="id")
    change(client, file)
    run(file, client, id_column="id")
    stored = {id: text for id, (text, _, _) in contents(client.get_collection("notes")).items()}
    expected = {row["id"]: row["text"] for row in numbered(10)}
    if change is edit_in_place:
        expected["r1"] = expected["r1"].replace("Record 1 ", "Record X ")
    assert stored == expected


def test_other_options_are_not_taken_for_the_same(client: ClientAPI, folder: Path) -> None:
    text = " ".join(f"word{number}" for number in range(300))
    (folder / "a.txt").write_text(text)
    first = run(folder, client, passage_tokens=200)
    second = run(folder, client, passage_tokens=100)
    assert second.added + second.updated > first.added


def test_sync_looks_even_where_the_files_are_the_same(client: ClientAPI, folder: Path) -> None:
    file = write_jsonl(folder / "a.jsonl", numbered(5))
    (folder / "b.txt").write_text("one")
    run(folder, client)
    write_jsonl(file, numbered(3))
    run(folder, client)
    assert run(folder, client, sync=True).deleted == 2
    assert run(folder, client, sync=True).deleted == 0
    (folder / "b.txt").unlink()
    assert run(folder, client, sync=True).deleted == 1


def test_a_file_whose_records_another_file_replaced_is_not_taken_for_unchanged(client: ClientAPI, folder: Path) -> None:
    one = write_jsonl(folder / "a.jsonl", [{"id": "x", "text": "one"}])
    two = write_jsonl(folder / "b.jsonl", [{"id": "x", "text": "two"}])
    results = [run(file, client, id_column="id") for file in (one, two, one)]
    assert [result.updated for result in results] == [0, 1, 1]
    assert contents(client.get_collection("notes"))["x"][0] == "one"


def test_sync_deletes_what_a_run_without_it_put_there(client: ClientAPI, folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    run(folder, client, sync=True)
    (folder / "new.txt").write_text("new")
    run(folder / "new.txt", client)
    (folder / "new.txt").unlink()
    assert run(folder, client, sync=True).deleted == 1


def test_sync_deletes_what_a_file_with_a_reject_has_left(client: ClientAPI, folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    write_jsonl(folder / "b.jsonl", [{"text": "two"}, "bad"])
    assert run(folder, client, sync=True).failed == 1
    (folder / "b.jsonl").unlink()
    assert run(folder, client, sync=True).deleted == 1


def test_a_file_that_was_deleted_and_comes_back_is_ingested_again(client: ClientAPI, folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")
    run(folder, client, sync=True)
    (folder / "a.txt").unlink()
    assert run(folder, client, sync=True).deleted == 1
    left = client.get_collection("notes").metadata
    assert run(folder, client, sync=True).unchanged == 1
    assert client.get_collection("notes").metadata == left, "nothing changed, and yet all of it was looked through"
    (folder / "a.txt").write_text("one")
    assert run(folder, client, sync=True).added == 1
    assert {text for text, _, _ in contents(client.get_collection("notes")).values()} == {"one", "two"}


def test_an_ingest_into_an_open_collection_is_seen_by_the_next_one(client: ClientAPI, folder: Path) -> None:
    opened = client.create_collection("notes", embedding_function=MockEmbeddingFunction(8))
    file = write_jsonl(folder / "a.jsonl", [{"id": "x", "text": "one"}])
    run(file, client, id_column="id")
    before = client.get_collection("notes").metadata or {}
    ingest([{"id": "x", "text": "two"}], opened)
    assert (client.get_collection("notes").metadata or {}) == {**before, "chroma_mlx:ingested": ""}
    assert run(file, client, id_column="id").updated == 1


def test_a_file_with_a_reject_is_read_again_and_says_so_again(client: ClientAPI, folder: Path) -> None:
    write_jsonl(folder / "a.jsonl", [{"text": "one"}, "bad"])
    assert [run(folder, client).failed for _ in range(3)] == [1, 1, 1]


def test_recheck_compares_although_nothing_changed(client: ClientAPI, folder: Path, read: list[str]) -> None:
    (folder / "a.txt").write_text("one")
    run(folder, client)
    read.clear()
    assert run(folder, client, recheck=True).unchanged == 1
    assert read == ["a.txt"]


def test_a_run_that_was_interrupted_leaves_no_shortcut(
    client: ClientAPI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(folder / "a.jsonl", numbered(5))
    run(file, client, id_column="id")
    original = file.read_bytes()
    file.write_bytes(original.replace(b"thing 1", b"thing 8"))

    def fail(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt("between two steps")

    with monkeypatch.context() as patched:
        patched.setattr("chroma_mlx.ingestion.run.Ingest._keep", fail)
        with pytest.raises(KeyboardInterrupt, match="between two steps"):
            run(file, client, id_column="id")
    file.write_bytes(original)
    assert run(file, client, id_column="id").updated == 1


def test_the_journal_holds_no_text_and_no_id(client: ClientAPI, folder: Path) -> None:
    run(write_jsonl(folder / "a.jsonl", numbered(2)), client, id_column="id")
    file = sqlite3.connect(Path(os.environ["XDG_STATE_HOME"]) / "chroma-mlx/ingest.sqlite3")
    [[source, passages]] = file.execute("SELECT source, passages FROM files").fetchall()
    file.close()
    assert (source, passages) == (str(folder / "a.jsonl"), 2)

"""A disk that is full: what happened, why and what to do is said, and once there is room the same run goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromadb.api import ClientAPI
from chromadb.errors import InternalError
from ingested import contents, numbered, write_jsonl

from chroma_mlx import ingest
from chroma_mlx.cli import main
from chroma_mlx.database import Folder
from chroma_mlx.disk import disk_errors, is_full
from chroma_mlx.errors import DatabaseUnreachable, DiskFull, IngestStopped
from chroma_mlx.ingestion import migrate, seen

MIB = 2**20
# As SQLite says it through Chroma.
FULL = "Error executing a query: (code: 13) database or disk is full"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (PermissionError(13, "Permission denied"), False),
        (InternalError(FULL), True),
        (InternalError("IO error: No space left on device (os error 28)"), True),
        (InternalError("no such table"), False),
        (IngestStopped(reason=f"InternalError: {FULL}", waited_s=300.0), True),
        (DatabaseUnreachable(f"The Chroma database cannot be opened: {FULL}."), True),
        (sqlite3.OperationalError("database or disk is full"), True),
        (ValueError("the disk is full of text"), False),
    ],
)
def test_a_full_disk_is_known_by_its_number_or_by_what_the_database_says(error: Exception, full: bool) -> None:
    assert is_full(error) is full
    expected, message = (DiskFull, r"A disk is full \(.*Free room on it") if full else (type(error), ".")
    with pytest.raises(expected, match=message), disk_errors():
        raise error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_file_of_rejects_without_room_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [*numbered(3), "bad"])
    assert main(["ingest", str(file), "--collection", "notes", "--path", "db", "--rejects", "/dev/full"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("chroma-mlx: A disk is full (OSError: [Errno 28] No space left on device). What was ")
    assert "Free room on it, and run the same again: it goes on from there." in said
    assert main(["ingest", str(file), "--collection", "notes", "--path", "db"]) == 3


def test_temporary_files_without_room_end_the_run(client: ClientAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Text {number}, which is one of many." for number in range(2_000)]
    with monkeypatch.context() as patch:
        patch.setattr(seen, "SCHEMA", f"{seen.SCHEMA} PRAGMA max_page_count = 10;")  # and SQLite says it itself
        with pytest.raises(DiskFull, match=r"temporary file in .*: database or disk is full\)\. What was written"):
            ingest(texts, "notes", client=client)
    assert ingest(texts, "notes", client=client, sync=True).failed == 0
    assert client.get_collection("notes").count() == 2_000


def test_a_migration_without_room_ends_and_the_next_one_goes_on(
    client: ClientAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chromadb.api.models.Collection import Collection

    client.create_collection("old", embedding_function=None).add(ids=["a"], documents=["one"], embeddings=[[1.0]])

    def failing(*arguments: Any, **more: Any) -> None:
        raise InternalError(FULL)

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "upsert", failing)
        with pytest.raises(DiskFull, match=r"A disk is full \(InternalError: .*disk is full\)\. What was written"):
            migrate("old", "new", client=client)
    assert migrate("old", "new", client=client).added == 1


def test_what_a_run_notes_on_the_way_has_no_name_that_a_kill_would_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with seen.Seen() as notes:
        assert os.listdir(tmp_path) == []
        assert notes.claim(["one"], "a.txt", 1) is None
        assert notes.claim(["one"], "b.txt", 1) == ("a.txt", 1)


def test_nothing_is_written_where_the_index_may_not_fit(client: ClientAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one", "two"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=10**5))
        with pytest.raises(DiskFull, match=r"\(0\.1 MB are left for .*, and the next write may take 0\.3\)\. What was"):
            ingest(texts, "notes", client=client)
    assert client.get_collection("notes").count() == 0
    assert ingest(texts, "notes", client=client).added == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root on Linux mounts a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_database_whose_disk_fills_up_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.FIRST_PASSAGES", 50)
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.BATCH_S", 0.01)
    rows = [{"id": f"r{number}", "text": f"Record {number}. " * 20} for number in range(1_500)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    (small_disk / "ballast").write_bytes(bytes(5 * MIB + MIB // 2))
    options: dict[str, Any] = {"id_column": "id", "base": tmp_path}
    place = Folder(path=small_disk / "db")
    with pytest.raises(DiskFull, match=r"A disk is full \(.*\)\. What was written until then stays"):
        ingest(file, "notes", client=place, **options)
    with pytest.raises(DiskFull, match="A disk is full"):
        ingest(file, "notes", client=place, **options)
    (small_disk / "ballast").unlink()
    with place.opened() as client:
        there = client.get_collection("notes").count()
    assert 0 < there < len(rows)
    result = ingest(file, "notes", client=place, **options)
    assert (result.added + result.unchanged, result.unchanged >= there) == (len(rows), True)
    with Folder(path=tmp_path / "other").opened(create=True) as client, place.opened() as filled:
        ingest(file, "notes", client=client, **options)
        assert contents(filled.get_collection("notes")) == contents(client.get_collection("notes"))

"""A collection moved: the same records and the same function; or nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection
from unit_vectors import unit_vectors

from chroma_mlx import EmbeddingRouter, MockEmbeddingFunction
from chroma_mlx.cli import main
from chroma_mlx.collections.parquet import KEY

Run = Callable[..., str]
OpenClient = Callable[[Path], ClientAPI]

METADATA: list[dict[str, Any] | None] = [
    {"whole": 1, "decimal": 1.0, "flag": True, "text": "ü — 二", "none": "null"},
    None,
    {"wholes": [1, 2], "decimals": [1.0, 2.5], "flags": [True, False], "texts": ["a", "日"]},
    {"large": 2**62, "small": -(2**62), "empty": "", "tiny": 5e-300, "key with spaces": 0},
]
DOCUMENTS = ["Let the dough rise.", None, "", "🚲 Öl die Kette.\n二\x00行"]
URIS = [None, "file:///b", None, None]


def fill(client: ClientAPI, name: str = "notes", *, count: int = 4, space: str = "cosine") -> Collection:
    """A collection of `count` records with all that a record may have."""
    collection = client.create_collection(
        name,
        embedding_function=MockEmbeddingFunction(8),
        configuration={"hnsw": {"space": space, "max_neighbors": 24}},
        metadata={"made by": "tests", "version": 2, "share": 1.0, "final": False},
    )
    for start in range(0, count, 4):
        collection.add(
            ids=[f"ключ {start + place}" for place in range(4)],
            embeddings=list(unit_vectors(4, seed=start)),
            documents=DOCUMENTS,
            metadatas=METADATA,
            uris=URIS,
        )
    return client.get_collection(name)


def contents(collection: Collection) -> dict[str, tuple[Any, np.ndarray[Any, Any]]]:
    """All of the records by id, types of values included, and their vectors."""
    found = collection.get(include=["documents", "metadatas", "uris", "embeddings"])
    rows = zip(found["documents"], found["metadatas"], found["uris"], found["embeddings"], strict=True)
    return {
        id: ((document, json.dumps(metadata or {}, sort_keys=True), uri), np.asarray(vector, np.float32))
        for id, (document, metadata, uri, vector) in zip(found["ids"], rows, strict=True)
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any], *, tolerance: float = 1e-6) -> None:
    """A cosine collection rounds; of another the vectors are the same to the last bit."""
    assert {id: rest for id, (rest, _) in found.items()} == {id: rest for id, (rest, _) in wanted.items()}
    for id, (_, vector) in found.items():
        np.testing.assert_allclose(vector, wanted[id][1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("space", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("count", [4, 4400])
def test_a_round_trip_changes_nothing(
    count: int, space: str, source: Path, tmp_path: Path, open_client: OpenClient, command: Run
) -> None:
    original = fill(open_client(source), count=4, space=space)
    more = unit_vectors(count, seed=7)
    original.upsert(ids=[f"m{place}" for place in range(count)], embeddings=list(more))
    file = tmp_path / "notes.parquet"
    assert f"{count + 4:,} records of notes" in command("export", file, "--path", source)
    printed = command("import", file, "--path", tmp_path / "target", "--collection", "moved")
    assert printed == f"moved: {count + 4:,} records added, 0 were there already, 0 replaced\n"
    moved = open_client(tmp_path / "target").get_collection("moved")
    assert_same(contents(moved), contents(original), tolerance=1e-6 if space == "cosine" else 0.0)
    assert moved.metadata == original.metadata
    assert moved.configuration_json == original.configuration_json


def test_the_file_says_what_is_in_it(source: Path, tmp_path: Path, open_client: OpenClient, command: Run) -> None:
    fill(open_client(source))
    file = tmp_path / "notes.parquet"
    command("export", file, "--path", source)
    table = pq.read_table(file)
    assert table.schema.names == ["id", "document", "embedding", "uri", "metadata"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert table["metadata"].to_pylist()[2].startswith('{"decimals": [1.0, 2.5], "flags": [true, false]')
    stated = json.loads(table.schema.metadata[KEY])
    assert stated["function"] == {"type": "known", "name": "chroma_mlx_mock", "config": {"dimension": 8}}
    assert (stated["format"], stated["space"], stated["dimension"]) == (1, "cosine", 8)
    assert sorted(os.listdir(tmp_path)) == ["notes.parquet", "source"]


def test_a_collection_of_a_model_answers_the_same_where_it_was_moved(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run
) -> None:
    router = EmbeddingRouter(model_name="builtin")
    notes = router.collection(open_client(source), "notes")
    notes.upsert([{"id": "bread", "text": "Let the dough rise."}, {"id": "bike", "text": "Oil the chain."}])
    file, target = tmp_path / "notes.parquet", tmp_path / "target"
    command("export", file, "--path", source)
    command("import", file, "--path", target, "--collection", "notes")
    question = ("query", "how do I bake a loaf?", "--json", "--path")
    assert json.loads(command(*question, target)) == json.loads(command(*question, source))
    reopened = router.collection(open_client(target), "notes", create=False)
    assert reopened.upsert([{"id": "tea", "text": "Let it steep."}]).embedded == 1


def test_an_empty_collection_is_moved_too(source: Path, tmp_path: Path, open_client: OpenClient, command: Run) -> None:
    client = open_client(source)
    client.create_collection("empty", embedding_function=None, metadata={"a": 1})
    file, target = tmp_path / "empty.parquet", tmp_path / "target"
    assert "0 records of empty" in command("export", file, "--path", source)
    assert "0 records added" in command("import", file, "--path", target, "--collection", "empty")
    moved = open_client(target).get_collection("empty")
    assert (moved.count(), moved.metadata) == (0, {"a": 1})
    assert moved.configuration_json["hnsw"] == client.get_collection("empty").configuration_json["hnsw"]


def test_a_collection_goes_into_a_server_and_back(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, port: int
) -> None:
    original = fill(open_client(source), count=400)
    there, back = tmp_path / "there.parquet", tmp_path / "back.parquet"
    server = ("--host", "127.0.0.1", "--port", port, "--collection", "moved")
    command("export", there, "--path", source)
    assert "400 records added" in command("import", there, *server)
    assert "0 records added, 400 were there already" in command("import", there, *server)
    command("export", back, *server)
    command("import", back, "--path", tmp_path / "target", "--collection", "moved")
    assert_same(contents(open_client(tmp_path / "target").get_collection("moved")), contents(original))


# Kills itself after the second of Chroma's own writes.
STOPPED = """
import os, sys
from chromadb.api.models.Collection import Collection
from chroma_mlx.cli import main
add, calls = Collection.add, []
def counted(self, *args, **kwargs):
    add(self, *args, **kwargs)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), 9)
Collection.add = counted
main(sys.argv[1:])
"""


def test_an_import_that_was_killed_is_completed_by_the_next(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run
) -> None:
    count = 5000
    original = open_client(source).create_collection("notes", embedding_function=MockEmbeddingFunction(8))
    original.add(ids=[f"m{place}" for place in range(count)], embeddings=list(unit_vectors(count)))
    file, target = tmp_path / "notes.parquet", tmp_path / "target"
    command("export", file, "--path", source)
    arguments = ["import", str(file), "--path", str(target), "--collection", "moved"]
    stopped = subprocess.run([sys.executable, "-c", STOPPED, *arguments], check=False, capture_output=True)
    assert stopped.returncode == -9, stopped.stderr
    assert command(*arguments) == "moved: 1,000 records added, 4,000 were there already, 0 replaced\n"
    assert_same(contents(open_client(target).get_collection("moved")), contents(original))
    assert command(*arguments) == "moved: 0 records added, 5,000 were there already, 0 replaced\n"


def test_records_that_differ_are_replaced_only_when_that_is_asked_for(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, refused: Run
) -> None:
    client = open_client(source)
    original = fill(client)
    file = tmp_path / "notes.parquet"
    command("export", file, "--path", source)
    before = contents(original)
    original.update(ids=["ключ 0"], metadatas=[{"whole": 1.0}])
    original.update(ids=["ключ 1"], documents=["now with a text"], embeddings=list(unit_vectors(1, seed=3)))
    original.add(ids=["another"], embeddings=list(unit_vectors(1)))
    changed = contents(original)
    arguments = ("import", file, "--path", source, "--collection", "notes")
    message = refused(*arguments)
    assert "2 of the file's records are in collection 'notes' already, and differ from the file's: 'ключ 0'" in message
    assert_same(contents(original), changed)
    assert command(*arguments, "--overwrite") == "notes: 0 records added, 2 were there already, 2 replaced\n"
    assert_same(contents(original), {**before, "another": changed["another"]})


@pytest.mark.parametrize(
    ("function", "space", "width", "message"),
    [
        (MockEmbeddingFunction(16), "cosine", 16, "stores 16-d vectors, and the file has 8-d ones"),
        (MockEmbeddingFunction(16), "cosine", None, "dimension is 16 there and 8 in the file"),
        (MockEmbeddingFunction(8), "l2", None, "space is 'l2' there and 'cosine' in the file"),
        (None, "cosine", None, "function is None there and 'chroma_mlx_mock' in the file"),
    ],
)
def test_a_collection_of_another_kind_is_left_alone(
    function: Any,
    space: str,
    width: int | None,
    message: str,
    source: Path,
    tmp_path: Path,
    open_client: OpenClient,
    command: Run,
    refused: Run,
) -> None:
    client = open_client(source)
    fill(client)
    file = tmp_path / "notes.parquet"
    command("export", file, "--path", source, "--collection", "notes")
    other = client.create_collection("other", embedding_function=function, configuration={"hnsw": {"space": space}})
    if width:
        other.add(ids=["a"], embeddings=list(unit_vectors(1, width)))
    assert message in refused("import", file, "--path", source, "--collection", "other")
    assert other.count() == (1 if width else 0)


def test_vectors_of_another_fingerprint_are_refused(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, refused: Run
) -> None:
    client = open_client(source)
    router = EmbeddingRouter(model_name="builtin")
    router.collection(client, "notes").upsert([{"id": "bread", "text": "Let the dough rise."}])
    router.collection(client, "other").upsert([{"id": "bike", "text": "Oil the chain."}])
    file = tmp_path / "notes.parquet"
    command("export", file, "--path", source, "--collection", "notes")
    rewrite(file, lambda stated: stated["fingerprint"].update(weights="of another model"))
    message = refused("import", file, "--path", source, "--collection", "other")
    assert "and 'of another model' in the file" in message
    assert client.get_collection("other").count() == 1


def rewrite(file: Path, change: Callable[[dict[str, Any]], object], table: Callable[[Any], Any] = lambda t: t) -> None:
    """The file again, with other statements in its schema or another table."""
    read = table(pq.read_table(file))
    stated = json.loads(read.schema.metadata[KEY])
    change(stated)
    pq.write_table(read.replace_schema_metadata({KEY: json.dumps(stated).encode()}), file)


def with_column(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Any]:
    def changed(table: Any) -> Any:
        place = table.schema.get_field_index(name)
        column = pa.array(values(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(place, pa.field(name, column.type), column)

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_column("embedding", lambda rows: [[float("nan")] * 8, *rows[1:]]), "row 0 (id 'ключ 0') has a vector"),
        (with_column("embedding", lambda rows: [*rows[:3], [float("inf")] * 8]), "with a value that is not finite"),
        (with_column("embedding", lambda rows: [None, *rows[1:]]), "a vector, or a value of one, is missing"),
        (with_column("id", lambda rows: [rows[1], *rows[1:]]), "the id 'ключ 1' of row 1 is that of an earlier row"),
        (with_column("id", lambda rows: ["", *rows[1:]]), "row 0 (id '') has no id"),
        (with_column("metadata", lambda rows: ["{", *rows[1:]]), "near row 0"),
        (with_column("metadata", lambda rows: ['{"a": NaN}', *rows[1:]]), "has nan under 'a'"),
        (with_column("metadata", lambda rows: ['["a"]', *rows[1:]]), "is a list, not a dict"),
        (lambda table: table.drop_columns(["uri"]), "its column 'uri' is missing"),
        (lambda table: table.set_column(0, "id", pa.array(range(4))), "'id' is of type int64, not string"),
    ],
)
def test_a_file_that_was_changed_is_refused_before_anything_is_written(
    change: Callable[[Any], Any],
    message: str,
    source: Path,
    tmp_path: Path,
    open_client: OpenClient,
    command: Run,
    refused: Run,
) -> None:
    fill(open_client(source))
    file, target = tmp_path / "notes.parquet", tmp_path / "target"
    command("export", file, "--path", source)
    rewrite(file, lambda stated: None, change)
    assert message in refused("import", file, "--path", target, "--collection", "moved")
    assert not target.exists()


def test_files_that_are_no_export_are_refused(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, refused: Run
) -> None:
    fill(open_client(source))
    file, target = tmp_path / "notes.parquet", ("--path", tmp_path / "target", "--collection", "moved")
    command("export", file, "--path", source)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "no Parquet file, or not the whole of one" in refused("import", file, *target)
    pq.write_table(pa.table({"id": ["a"]}), file)
    assert "was not written by `chroma-mlx export`" in refused("import", file, *target)
    file.write_bytes(whole)
    rewrite(file, lambda stated: stated.update(format=2))
    assert "has format 2, and this version reads 1" in refused("import", file, *target)
    file.write_bytes(whole)
    rewrite(file, lambda stated: stated.pop("space"))
    assert "damaged 'chroma_mlx:collection'" in refused("import", file, *target)
    file.write_bytes(whole)
    rewrite(file, lambda stated: stated["function"].update(name="of-another-program"))
    assert "'of-another-program' is not known here" in refused("import", file, *target)
    assert "No such file" in refused("import", tmp_path / "none.parquet", *target)


def test_a_name_that_chroma_does_not_take_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["import", "notes.parquet", "--path", str(tmp_path / "target"), "--collection", "a b"])
    assert "'a b' is no name for a collection" in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_an_export_replaces_a_file_only_when_that_is_asked_for(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, refused: Run
) -> None:
    fill(open_client(source))
    file = tmp_path / "notes.parquet"
    file.write_text("mine")
    assert "is there already. Pass --force to replace it" in refused("export", file, "--path", source)
    assert file.read_text() == "mine"
    command("export", file, "--path", source, "--force")
    assert pq.read_metadata(file).num_rows == 4
    assert "There is no folder" in refused("export", tmp_path / "none" / "notes.parquet", "--path", source)
    assert "is a folder" in refused("export", tmp_path, "--path", source, "--force")


def test_an_import_for_which_there_may_be_no_room_writes_nothing(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_client(source))
    file, there = tmp_path / "notes.parquet", tmp_path / "there"
    command("export", file, "--collection", "notes", "--path", source)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=10**5))
        assert "A disk is full (0.1 MB are left for" in refused(
            "import", file, "--collection", "notes", "--path", there
        )
    assert open_client(there).get_collection("notes").count() == 0
    command("import", file, "--collection", "notes", "--path", there)
    assert open_client(there).get_collection("notes").count() == 4


def test_an_export_that_fails_leaves_no_file(
    source: Path, tmp_path: Path, open_client: OpenClient, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_client(source))
    get = Collection.get

    def failing(self: Collection, *arguments: Any, **given: Any) -> Any:
        if given.get("offset"):
            raise OSError("the disk is gone")
        return get(self, *arguments, **given)

    monkeypatch.setattr(Collection, "get", failing)
    assert "the disk is gone" in refused("export", tmp_path / "notes.parquet", "--path", source)
    assert os.listdir(tmp_path) == ["source"]


def test_without_pyarrow_the_extra_is_named(
    source: Path, tmp_path: Path, open_client: OpenClient, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_client(source))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refused("export", tmp_path / "notes.parquet", "--path", source)
    assert "pip install 'chroma-mlx[parquet]'" in message

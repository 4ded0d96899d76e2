"""Where Chroma is: found, or said not to be, and never made by looking."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from chromadb.api import ClientAPI

from chroma_mlx.cli import main
from chroma_mlx.database import Folder
from chroma_mlx.errors import DatabaseUnreachable

Run = Callable[..., str]
OpenClient = Callable[[Path], ClientAPI]


@pytest.mark.parametrize("arguments", [["collections"], ["query", "x"], ["export", "x.parquet"], ["view"]])
def test_looking_at_a_folder_without_a_database_makes_none(
    arguments: list[str], tmp_path: Path, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tool_folder(tmp_path)))
    missing = tmp_path / "missing"
    assert "There is no Chroma database in" in refused(*arguments, "--path", missing)
    assert not missing.exists()


def tool_folder(tmp_path: Path) -> Path:
    """A folder with a stand-in for Embedding Atlas that knows every option."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / "embedding-atlas"
    tool.write_text("#!/bin/sh\necho --vector --neighbors --text --umap-metric --host --port\n")
    tool.chmod(0o755)
    return folder


def test_a_damaged_database_is_named_and_left_as_it_is(tmp_path: Path, refused: Run) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database at all" * 100)
    assert "is no Chroma database, or a damaged one" in refused("collections", "--path", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["chroma.sqlite3"]


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"File name too long.*Pass another folder"):
        Folder(path=tmp_path / ("x" * 300)).is_there()


def test_a_server_that_does_not_answer_is_named(refused: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert f"No Chroma server answers at http://127.0.0.1:{port}" in refused(
        "collections", "--host", "127.0.0.1", "--port", port
    )


def test_a_token_that_is_not_set_is_said_before_anything_is_asked(refused: Run) -> None:
    assert "NO_SUCH_TOKEN, which is to hold the token, is not set" in refused(
        "collections", "--host", "127.0.0.1", "--token-env", "NO_SUCH_TOKEN"
    )


def test_a_token_in_the_place_of_its_variables_name_is_not_shown(refused: Run) -> None:
    said = refused("collections", "--host", "127.0.0.1", "--token-env", "ck-realtoken")
    assert "The token's variable has to be the name of an environment variable" in said
    assert "realtoken" not in said


def test_a_folder_and_a_server_exclude_each_other(tmp_path: Path, refused: Run) -> None:
    for argument in (["--port", 8000], ["--ssl"], ["--token-env", "HOME"]):
        assert "--port, --ssl and --token-env are a server's" in refused("collections", "--path", tmp_path, *argument)
    with pytest.raises(SystemExit, match="2"):
        main(["collections", "--path", "x", "--host", "y"])
    with pytest.raises(SystemExit, match="2"):
        main(["collections"])


def test_the_only_collection_needs_no_name_and_of_several_one_does(
    source: Path, open_client: OpenClient, refused: Run, command: Run
) -> None:
    client = open_client(source)
    assert "There is none here." in refused("query", "x", "--path", source)
    client.create_collection("first", configuration={"hnsw": {"space": "l2"}}, embedding_function=None)
    assert "'first' has no embedding function" in refused("query", "x", "--path", source)
    client.create_collection("second", embedding_function=None)
    assert "Which collection? There are 'first', 'second'." in refused("query", "x", "--path", source)
    assert "no collection 'third'. There are 'first', 'second'." in refused(
        "query", "x", "--path", source, "--collection", "third"
    )

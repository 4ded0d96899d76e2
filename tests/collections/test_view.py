"""`chroma-mlx view`: the file that Embedding Atlas is given, and how it is called."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from chromadb.api import ClientAPI
from unit_vectors import unit_vectors

from chroma_mlx.collections.map_file import column_names, sampled

Run = Callable[..., str]
OpenClient = Callable[[Path], ClientAPI]

HELP = "--vector TEXT --neighbors TEXT --text TEXT --umap-metric TEXT --host TEXT --port INTEGER"
TOOL = """#!{python}
import json, os, socket, sys, time
if sys.argv[1] == "--help":
    print({help!r})
elif sys.argv[1] == "--version":
    print("embedding-atlas, version 0.9.1")
else:
    said = {{"arguments": sys.argv[1:], "offline": os.environ.get("HF_HUB_OFFLINE")}}
    said["is_file"] = os.path.isfile(sys.argv[1])
    with open({record!r}, "w") as file:
        json.dump(said, file)
    {then}
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a stand-in for Embedding Atlas on the path, and nothing else; returns the file that it records in."""

    def make(*, help: str = HELP, then: str = "pass") -> Path:
        folder, record = tmp_path / "bin", tmp_path / "record.json"
        folder.mkdir()
        script = folder / "embedding-atlas"
        script.write_text(TOOL.format(python=sys.executable, help=help, record=str(record), then=then))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return record

    return make


def fill(client: ClientAPI, count: int = 40, *, space: str = "cosine", documents: bool = True) -> None:
    collection = client.create_collection("notes", embedding_function=None, configuration={"hnsw": {"space": space}})
    collection.add(
        ids=[f"r{place}" for place in range(count)],
        embeddings=list(unit_vectors(count)),
        documents=[f"text {place}" if place else None for place in range(count)] if documents else None,
        metadatas=[
            {
                "page": place,
                "share": 0.5 if place % 2 else 1,
                "mixed": "a" if place % 2 else 7,
                "flag": place % 2 == 0,
                "tags": ["x", "ü"],
                "ID": "theirs",
                "Case": "upper",
                "case": "lower",
            }
            if place
            else None
            for place in range(count)
        ],
    )


def test_the_tool_is_called_on_loopback_with_vectors_texts_and_neighbours(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, tool: Callable[..., Path]
) -> None:
    record = tool()
    fill(open_client(source))
    printed = command("view", "--path", source, "--no-browser", "--map-port", 47123)
    assert printed == "40 records of notes; Ctrl-C ends the map.\n"
    said = json.loads(record.read_text())
    file, *arguments = said["arguments"]
    assert arguments == [
        *("--vector", "vector", "--neighbors", "neighbors", "--text", "document", "--umap-metric", "cosine"),
        *("--host", "127.0.0.1", "--port", "47123"),
    ]
    assert (said["offline"], said["is_file"]) == ("1", True)
    assert not Path(file).parent.exists(), "the temporary file stayed"


def test_the_file_has_every_record_its_metadata_and_its_neighbours(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, tool: Callable[..., Path]
) -> None:
    tool()
    fill(open_client(source))
    file = tmp_path / "map.parquet"
    command("view", "--path", source, "--no-browser", "--keep", file)
    table = pq.read_table(file)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "id": "string",
        "document": "string",
        "Case": "string",
        "ID_metadata": "string",
        "case_metadata": "string",
        "flag": "bool",
        "mixed": "string",
        "page": "int64",
        "share": "double",
        "tags": "string",
        "vector": "fixed_size_list<element: float>[8]",
        "neighbors": "struct<ids: list<element: int64>, distances: list<element: float>>",
    }
    rows = table.to_pylist()
    assert (rows[0]["id"], rows[0]["document"], rows[0]["page"]) == ("r0", None, None)
    assert [rows[1][name] for name in ("mixed", "tags", "share", "Case", "case_metadata")] == [
        *("a", '["x", "ü"]', 0.5, "upper", "lower"),
    ]
    assert rows[2]["mixed"] == "7"
    vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
    distances = 1 - vectors @ vectors.T
    for place, row in enumerate(rows):
        near = row["neighbors"]
        assert near["ids"] == np.argsort(distances[place], kind="stable")[:15].tolist()
        assert near["distances"] == pytest.approx(distances[place][near["ids"]], abs=1e-5)


def test_a_collection_without_texts_in_an_l2_space_is_drawn_as_such(
    source: Path, open_client: OpenClient, command: Run, tool: Callable[..., Path]
) -> None:
    record = tool()
    fill(open_client(source), space="l2", documents=False)
    command("view", "--path", source, "--no-browser")
    arguments = json.loads(record.read_text())["arguments"]
    assert "--text" not in arguments
    assert arguments[arguments.index("--umap-metric") + 1] == "euclidean"


def test_a_large_collection_is_sampled_and_that_is_said(
    source: Path, tmp_path: Path, open_client: OpenClient, command: Run, tool: Callable[..., Path]
) -> None:
    tool()
    fill(open_client(source))
    file = tmp_path / "map.parquet"
    printed = command("view", "--path", source, "--no-browser", "--limit", 10, "--keep", file)
    assert printed.splitlines()[0] == "notes has 40 records. The map has 10 of them, evenly spread."
    rows = pq.read_table(file).to_pylist()
    assert [row["id"] for row in rows] == ["r0", "r4", "r8", "r13", "r17", "r21", "r26", "r30", "r34", "r39"]
    for place, row in enumerate(rows):
        assert row["neighbors"]["ids"][0] == place
        assert set(row["neighbors"]["ids"]) <= set(range(10))


def test_without_the_tool_the_command_that_gets_it_is_named(
    source: Path, tmp_path: Path, refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused("view", "--path", source)
    assert "`uv tool install embedding-atlas`" in message
    assert "`pipx install embedding-atlas`" in message


def test_a_tool_that_is_too_old_is_named_with_what_it_lacks(
    source: Path, refused: Run, tool: Callable[..., Path]
) -> None:
    tool(help="--text TEXT --umap-metric TEXT --host TEXT --port INTEGER --vectors TEXT")
    message = refused("view", "--path", source)
    assert "is version 0.9.1, which has no --vector, --neighbors." in message
    assert "`uv tool upgrade embedding-atlas`" in message


def test_a_tool_that_fails_is_said_to_have_failed(
    source: Path, open_client: OpenClient, refused: Run, tool: Callable[..., Path]
) -> None:
    tool(then="sys.exit(3)")
    fill(open_client(source))
    assert "ended with status 3" in refused("view", "--path", source, "--no-browser")


def test_a_map_of_too_few_records_and_a_file_that_is_there_are_refused(
    source: Path, tmp_path: Path, open_client: OpenClient, refused: Run, tool: Callable[..., Path]
) -> None:
    record = tool()
    fill(open_client(source), 5)
    assert "A map takes 6 records or more, and this one would have 5." in refused("view", "--path", source)
    kept = tmp_path / "map.parquet"
    kept.write_text("mine")
    assert "is there already. Pass --force" in refused("view", "--path", source, "--keep", kept)
    assert kept.read_text() == "mine"
    assert not record.exists()


WAIT = "import signal; open(sys.argv[1] + '.up', 'w').close(); time.sleep(60)"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_tool_and_removes_the_file(
    sent: signal.Signals, source: Path, open_client: OpenClient, tool: Callable[..., Path]
) -> None:
    record = tool(then=WAIT)
    fill(open_client(source))
    code = "import sys; from chroma_mlx.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "view", "--path", str(source), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    file = started(record, process)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert not file.parent.exists()


def started(record: Path, process: subprocess.Popen[Any]) -> Path:
    """The map's file, once the tool runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if record.exists() and record.read_text():
            file = Path(json.loads(record.read_text())["arguments"][0])
            if Path(f"{file}.up").exists():
                return file
        time.sleep(0.02)
    raise RuntimeError(f"the tool was not started: {process.communicate()}")


def test_names_that_a_database_takes_for_one_are_told_apart() -> None:
    keys = ["id", "ID", "Vector", "page", "Page", "page_metadata", "FILE_NAME"]
    names = column_names(keys)
    assert list(names) == sorted(keys)
    assert len({name.lower() for name in names.values()}) == len(keys)
    assert names["Page"] == "Page"
    assert not {"id", "vector", "file_name"} & {name.lower() for name in names.values()}


@pytest.mark.parametrize(("count", "limit", "places"), [(10, 5, 5), (10, 10, 10), (10, 99, 10), (1, 1, 1), (7, 1, 1)])
def test_a_sample_has_as_many_places_as_it_may(count: int, limit: int, places: int) -> None:
    chosen = sampled(count, limit)
    assert len(chosen) == places
    assert chosen <= set(range(count))

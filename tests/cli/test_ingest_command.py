"""`chroma-mlx ingest`: the summary, and what the exit status says."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from ingested import numbered, write_jsonl

from chroma_mlx import ingest
from chroma_mlx.cli import main
from chroma_mlx.database import Folder
from chroma_mlx.errors import InputError


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("CHROMA_MLX_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


def test_a_file_is_ingested_with_the_built_in_model_and_found_by_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"key": "bread", "body": "Let the dough rise under a cloth."}, {"key": "bike", "body": "Oil the chain."}]
    file = write_jsonl(tmp_path / "notes.jsonl", rows)
    arguments = ["ingest", str(file), "--collection", "notes", "--path", "db", "--model", "builtin"]
    arguments += ["--text-column", "body", "--id-column", "key"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "added" in printed
    assert "Collection notes: 2 passages embedded" in printed
    client = chromadb.PersistentClient(tmp_path / "db", settings=Settings(anonymized_telemetry=False))
    found = client.get_collection("notes").query(query_texts=["how do I bake a loaf?"], n_results=1)
    client.close()
    assert found["ids"] == [["bread"]]
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["unchanged"], summary["embedded"], summary["failed"]) == (2, 0, 0)


def test_something_refused_is_status_3_and_a_file_of_rejects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    file = write_jsonl(tmp_path / "notes.jsonl", [*numbered(2), "bad"])
    assert main(["ingest", str(file), "--collection", "notes", "--path", "db"]) == 3
    assert "Refused, with reasons: notes.rejects.jsonl" in capsys.readouterr().out
    [reject] = map(json.loads, (tmp_path / "notes.rejects.jsonl").read_text().splitlines())
    assert (reject["line"], reject["record"]) == (3, "bad")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_summary_is_utf8_whatever_the_terminal_is(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    file = write_jsonl(tmp_path / "café.jsonl", ["bad"])
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii", write_through=True))
    arguments = ["ingest", str(file), "--collection", "notes", "--path", "db", "--rejects", "café.rejects.jsonl"]
    assert main([*arguments, *more]) == 3
    assert "café.rejects.jsonl" in printed.getvalue().decode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jsonl", "--path", "db"], "There is no file or folder 'nothing.jsonl' to ingest"),
        (["-", "--path", "db"], "Standard input has no name to know its format by"),
        (["a.txt", "--path", "db", "--model", "quen3-0.6b-4bit"], "Did you mean 'qwen3-0.6b-4bit'?"),
        (["a.txt", "--path", "db", "--model", "builtin", "--passage-tokens", "300"], "longer than the model takes"),
        (["a.txt", "--host", "127.0.0.1", "--port", "1"], "No Chroma server answers at http://127.0.0.1:1"),
    ],
)
def test_what_a_person_gets_wrong_is_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one")
    assert main(["ingest", *arguments, "--collection", "notes"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--passage-tokens", "300"], "longer than the model takes"),
        (["--passage-tokens", "10", "--overlap-tokens", "6"], "at most half of it"),
        (["--model", "quen3-0.6b-4bit"], "Did you mean 'qwen3-0.6b-4bit'?"),
        (["--model", "./no/such/folder"], "no/such/folder"),
        (["--format", "docx"], "format is 'docx', which is not known"),
        (["--glob", "*.nothing"], "There is nothing to ingest"),
        (["--base", "elsewhere"], "is not below the base"),
        (["--rejects", "no/such/folder/file"], "There is no folder"),
        (["--rejects", "in"], "'in' is a folder"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--config", "mistyped.yaml"], "dimensoin: unknown key"),
        (["--config", "too_wide.yaml"], "5000"),
        (["--config", "elsewhere.yaml"], "in which no text is embedded"),
        (["--tenant", "other"], "default tenant and database alone"),
        (["--database", "other"], "default tenant and database alone"),
        (["--port", "8000"], "are a server's, and --path is a folder"),
        (["--workers", "2"], "--workers is of several processes"),
    ],
)
def test_nothing_that_is_mistyped_leaves_a_database_behind(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("one")
    (tmp_path / "mistyped.yaml").write_text("embedding: {dimensoin: 8}\n")
    (tmp_path / "too_wide.yaml").write_text("embedding: {model_name: builtin, dimension: 5000}\n")
    (tmp_path / "elsewhere.yaml").write_text("embedding: {mode: user_provided, dimension: 8}\n")
    command = ["ingest", "in", "--collection", "notes", "--path", "deep/db"]
    model = [] if {"--model", "--config"} & set(arguments) else ["--model", "builtin"]
    assert main([*command, *model, *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("option", ["SOURCE", "--path", "--rejects", "--base", "--text-column", "--id-column"])
def test_an_empty_name_is_not_the_working_folders(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one")
    source, place = ("" if option == "SOURCE" else "a.txt"), ("" if option == "--path" else "db")
    given = [] if option in ("SOURCE", "--path") else [option, ""]
    with pytest.raises(SystemExit, match="2"):
        main(["ingest", source, "--collection", "notes", "--path", place, "--model", "builtin", *given])
    assert "the name is empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_empty_path_is_refused_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The path of the records is empty"):
        ingest("", "notes", client=Folder(path=tmp_path / "db"), model="builtin")
    assert not list(tmp_path.iterdir())


def test_the_command_walks_a_folder_no_more_often_than_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("one")
    walk, walked = os.walk, list[str]()

    def noting(top: Any, *arguments: Any, **more: Any) -> Any:
        walked.append(os.fspath(top))
        return walk(top, *arguments, **more)

    monkeypatch.setattr(os, "walk", noting)
    with Folder(path=tmp_path / "one").opened(create=True) as client:
        ingest(Path("in"), "notes", client=client)
    function = walked.count("in")
    walked.clear()
    assert main(["ingest", "in", "--collection", "notes", "--path", "other"]) == 0
    assert 0 < walked.count("in") <= function


def test_a_database_that_cannot_be_written_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "db").write_text("a file, and no folder")
    assert main(["ingest", "a.txt", "--collection", "notes", "--path", "db"]) == 1
    assert capsys.readouterr().err.startswith("chroma-mlx: ")

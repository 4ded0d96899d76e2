"""The commands as a person uses them, the README's word on them included."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chroma_mlx import MLXEmbeddingFunction, __version__
from chroma_mlx.cli import main, make_parser

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def subcommands() -> dict[str, argparse.ArgumentParser]:
    [group] = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(group.choices)


@pytest.mark.parametrize("name", subcommands())
def test_every_command_and_option_is_in_the_readme(name: str) -> None:
    [line] = [line for line in README.splitlines() if line.startswith(f"- `chroma-mlx {name}")]
    if line.endswith("where Chroma is."):
        line += next(line for line in README.splitlines() if line.startswith("Where Chroma is: "))
    options = [option for action in subcommands()[name]._actions for option in action.option_strings]
    for option in options:
        assert option in ("-h", "--help") or f"`{option}" in line, f"the README does not name {option} of {name}"


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "chroma_mlx", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"chroma-mlx {__version__}\n"


def test_embed_prints_a_line_of_json_a_text_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--model", "builtin", "one", "", "zwei — 二"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["one", "", "zwei — 二"]
    expected = MLXEmbeddingFunction("builtin").encode(["one", "", "zwei — 二"])
    printed = np.array([row["embedding"] for row in rows], dtype=np.float32)
    worst = np.abs(printed - expected).max()
    assert worst < 1e-6, f"printed vectors differ by {worst:.2e}"


def test_embed_reads_a_text_a_line_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = io.BytesIO("first\r\n\nform\x0cfeed 日\n".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(source, encoding="latin-1", newline=""))
    assert main(["embed", "--model", "builtin"]) == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert texts == ["first", "", "form\x0cfeed 日"]


def test_embed_writes_an_array_of_queries_at_a_cut_dimension(tmp_path: Path) -> None:
    source, target = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    source.write_text("a\nb\nc", encoding="utf-8")
    assert (
        main(
            [
                "embed",
                "--model",
                "builtin",
                "--query",
                "--dimension",
                "64",
                "--file",
                str(source),
                "--output",
                str(target),
            ]
        )
        == 0
    )
    vectors = np.load(target)
    assert vectors.shape == (3, 64)
    assert vectors.dtype == np.float32


def test_embed_writes_json_lines_to_a_file(tmp_path: Path) -> None:
    target = tmp_path / "vectors.jsonl"
    assert main(["embed", "--model", "builtin", "a", "b", "--output", str(target)]) == 0
    assert [json.loads(line)["text"] for line in target.read_text(encoding="utf-8").splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "quen3-0.6b-4bit", "a"], "Did you mean 'qwen3-0.6b-4bit'?"),
        (["--model", "builtin", "--dimension", "512", "a"], "gives vectors of 64 to 256 dimensions"),
        (["--model", "builtin", "--file", "no-such-file"], "no-such-file"),
        (["--model", "builtin", "--file", "x", "a"], "both as arguments and by --file"),
    ],
)
def test_what_a_person_gets_wrong_is_explained_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    assert main(["embed", "--model", "builtin", "--file", str(tmp_path / "latin")]) == 1
    assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_a_number_that_is_no_count_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", f"--limit={number}"])
    assert "is not a whole number of 1 or more" in capsys.readouterr().err


def test_a_command_that_is_started_without_standard_input_finds_it_empty(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["embed", "--model", "builtin"]) == 1
    assert "chroma-mlx: " in capsys.readouterr().err
    sys.stdin.close()

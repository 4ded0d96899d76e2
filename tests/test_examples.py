"""Each example runs as a person runs it: a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run_example(name: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", EXAMPLES / name, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_quickstart_stores_text_and_finds_it_by_meaning(tmp_path: Path) -> None:
    assert run_example("quickstart.py", tmp_path) == [
        "3 notes",
        "bread Knead the dough for ten minutes, then let it rise under a cloth.",
    ]


def test_a_new_process_opens_the_collection_with_its_model(tmp_path: Path) -> None:
    run_example("quickstart.py", tmp_path)
    assert run_example("reopen.py", tmp_path) == [
        "builtin",
        "bike A squeaking bicycle chain wants oil, and less of it than you think.",
    ]


def test_every_example_is_tested_here() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == {"quickstart.py", "reopen.py"}


def test_the_snippets_of_the_readme_run_and_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```")
    snippets = [
        (code.removeprefix("python\n"), blocks[place + 2])
        for place, code in enumerate(blocks)
        if code.startswith("python\n")
    ]
    assert snippets, "the README shows no Python"
    monkeypatch.chdir(tmp_path)
    for code, following in snippets:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if following.startswith("text\n"):
            assert done.stdout == following.removeprefix("text\n")

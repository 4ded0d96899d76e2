"""Each example runs as a person runs it: a process of its own."""

import os
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


def test_vectors_of_ones_own_are_stored_and_text_alone_is_refused(tmp_path: Path) -> None:
    assert run_example("user_provided.py", tmp_path) == [
        "4 vectors stored, 0 texts embedded",
        " 0.9934  brick  the colour brick",
        " 0.9862  wine   the colour wine",
        "Record 0 (id 'sky'): it has a text and no vector, and mode 'user_provided' embeds nothing. "
        "Give it a vector too. Nothing was written.",
    ]


def test_text_and_vectors_go_into_one_call(tmp_path: Path) -> None:
    first, best, second, sweet, last = run_example("mixed_records.py", tmp_path)
    assert first == "3 inserted, 2 embedded, 1 provided, 19 tokens"
    assert [best.split()[1], second.split()[1]] == ["flour", "tea"]
    assert sweet == "Honey keeps for years in a closed jar."
    assert last == "3 records, says Chroma itself"


def test_a_server_holds_the_model_of_a_collection(tmp_path: Path) -> None:
    assert run_example("serve_and_query.py", tmp_path) == [
        "bread Knead the dough for ten minutes, then let it rise under a cloth.",
        "builtin, 256 dimensions, loaded: True",
        "no mlx in this program",
    ]


def test_an_application_is_tested_without_a_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "."],
        cwd=EXAMPLES / "app_with_tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_every_example_is_tested_here() -> None:
    tested = {
        "quickstart.py",
        "reopen.py",
        "user_provided.py",
        "mixed_records.py",
        "serve_and_query.py",
        "app_with_tests",
    }
    assert {file.name for file in EXAMPLES.iterdir() if not file.name.startswith(("_", "."))} == tested


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/router.md",
        "docs/adding-a-model.md",
        "docs/models.md",
        "docs/metrics.md",
        "docs/ingest.md",
        "docs/scaling.md",
    ],
)
def test_the_snippets_of_a_page_run_and_print_what_it_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = (ROOT / page).read_text(encoding="utf-8").split("```")
    snippets = [
        (code.removeprefix("python\n"), blocks[place + 2])
        for place, code in enumerate(blocks)
        if code.startswith("python\n")
    ]
    assert snippets, f"{page} shows no Python"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for code, following in snippets:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if following.startswith("text\n"):
            assert done.stdout == following.removeprefix("text\n")

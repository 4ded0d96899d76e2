"""`chroma-mlx demo`: filled once, picked up after an interruption, asked again without embedding again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_cache import put_into_cache
from small import CHECKPOINTS

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.cli import main
from chroma_mlx.demo import index
from chroma_mlx.demo.index import choose_model, fill_collection, open_client, open_collection
from chroma_mlx.errors import CheckpointDiffers

LIMIT = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "demo"


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    from chromadb.api.shared_system_client import SharedSystemClient

    SharedSystemClient.clear_system_cache()


def run(folder: Path, *arguments: str) -> int:
    return main(["demo", "--model", "builtin", "--path", str(folder), f"--limit={LIMIT}", *arguments])


def test_the_demo_answers_with_similarity_place_and_timings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    printed = capsys.readouterr().out
    assert "Model: builtin (as asked for by --model)" in printed
    assert f"{LIMIT} passages" in printed
    assert "how do I loop over two lists at once?" in printed
    assert "documents/s embedded and stored" in printed
    assert "ms a query" in printed


def test_a_second_run_embeds_nothing_and_asks_a_question_of_ones_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder) == 0
    capsys.readouterr()
    assert run(folder, "how", "do", "I", "sort?") == 0
    printed = capsys.readouterr().out
    assert "how do I sort?" in printed
    assert "documents/s" not in printed


def test_reset_embeds_everything_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    assert run(folder, "--reset", "sort?") == 0
    assert capsys.readouterr().out.count("documents/s embedded and stored") == 2


def test_an_interrupted_run_is_picked_up_where_it_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PASSAGES_A_CALL", 25)
    function = MLXEmbeddingFunction("builtin")
    client = open_client(folder)
    collection = open_collection(client, function, limit=LIMIT, reset=False)
    passages = index.read_passages(LIMIT)
    collection.add(ids=[p.id for p in passages[:25]], documents=[p.text for p in passages[:25]])
    ingest = fill_collection(open_collection(client, function, limit=LIMIT, reset=False), limit=LIMIT)
    assert (ingest.passages, ingest.embedded) == (LIMIT, LIMIT - 25)
    again = fill_collection(open_collection(client, function, limit=LIMIT, reset=False), limit=LIMIT)
    assert (again.passages, again.embedded) == (LIMIT, 0)


def test_another_limit_is_another_collection_so_that_none_is_lost(folder: Path) -> None:
    client = open_client(folder)
    function = MLXEmbeddingFunction("builtin")
    for limit in (5, 7):
        fill_collection(open_collection(client, function, limit=limit, reset=False), limit=limit)
    assert [open_collection(client, function, limit=limit, reset=False).count() for limit in (5, 7)] == [5, 7]


def test_more_results_than_passages_are_all_of_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model=builtin", f"--path={folder}", "--limit=3", f"--results={10**14}", "sort?"]) == 0
    assert "sort?" in capsys.readouterr().out


def test_a_folder_that_chroma_cannot_use_is_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    (folder / "chroma.sqlite3").write_text("junk" * 100, encoding="utf-8")
    assert run(folder, "sort?") == 1
    assert "not a database" in capsys.readouterr().err


def test_a_cache_that_is_a_file_leaves_the_model_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
    assert choose_model(None).model_name == "builtin"


def test_without_the_default_model_the_built_in_one_is_taken_and_the_way_to_the_other_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    choice = choose_model(None)
    assert choice.model_name == "builtin"
    assert "--model qwen3-0.6b-4bit" in choice.why


def test_the_default_model_is_taken_when_it_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The checkpoint in the cache stands for the real one.
    put_into_cache(tmp_path, "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", CHECKPOINTS / "mlx-4bit")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    choice = choose_model(None)
    assert choice.model_name == "qwen3-0.6b-4bit"
    assert "--model builtin" in choice.why
    with pytest.warns(CheckpointDiffers, match="dimension is 64, not 1024"):
        assert MLXEmbeddingFunction(cache_dir=tmp_path, auto_download=False).encode(["a text"]).shape == (1, 64)


def test_the_demo_is_of_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    assert main(["demo"]) == 1
    assert "The demo shows what a model finds, but mode is 'mock' (CHROMA_MLX_MODE)" in capsys.readouterr().err

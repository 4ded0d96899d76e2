"""The models in the cache: listed, checked, removed; never another program's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hub_cache import put_into_cache
from small import write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint.cache import (
    CachedModel,
    VerifiedFiles,
    list_cached,
    mark_used,
    plan_pruning,
    prune_cache,
    remove_model,
    repo_of,
    verify_files,
)
from chroma_mlx.checkpoint.snapshot import find_cached
from chroma_mlx.engine.model import unload_models
from chroma_mlx.errors import CheckpointDiffers, CorruptCheckpoint, DownloadError, ModelNotFound
from chroma_mlx.models.known import KNOWN_MODELS

QWEN, MINILM = "qwen3-0.6b-4bit", "all-minilm-l6-v2"
FOREIGN = "someone/else"


def repo(name: str) -> str:
    found = KNOWN_MODELS[name].repo_id
    assert found is not None
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two models of the table, the second used later, and one of another program."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    put_into_cache(tmp_path / "hub", repo(QWEN), checkpoint, used=1_000.0)
    put_into_cache(tmp_path / "hub", repo(MINILM), checkpoint, used=2_000.0)
    put_into_cache(tmp_path / "hub", FOREIGN, checkpoint, used=10.0)
    return tmp_path / "hub"


def test_the_models_of_the_table_are_listed_the_last_used_first(cache: Path) -> None:
    models = list_cached(cache)

    assert [model.name for model in models] == [MINILM, QWEN]
    assert [model.last_used for model in models] == [2_000.0, 1_000.0]
    assert all(model.whole and model.size_bytes > 10_000 for model in models)
    assert [model.name for model in list_cached(cache, named=[FOREIGN])] == [MINILM, QWEN, FOREIGN]


def test_a_cache_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list_cached(tmp_path / "nowhere") == []


def test_a_model_that_lacks_a_file_is_not_whole(cache: Path) -> None:
    snapshot = find_cached(repo(QWEN), cache)
    assert snapshot is not None
    (snapshot / "tokenizer.json").unlink()

    assert {model.name: model.whole for model in list_cached(cache)} == {QWEN: False, MINILM: True}


def test_a_removed_model_is_gone_and_the_others_stay(cache: Path) -> None:
    freed = remove_model(QWEN, cache)

    assert freed > 10_000
    assert [model.name for model in list_cached(cache, named=[FOREIGN])] == [MINILM, FOREIGN]
    with pytest.raises(ModelNotFound, match="is not in the cache, so there is nothing to remove"):
        remove_model(QWEN, cache)


def test_pruning_takes_the_least_recently_used_first_and_never_what_is_in_use() -> None:
    models = [
        CachedModel(
            name=name,
            repo_id=name,
            folder=Path(name),
            size_bytes=size * 10**9,
            last_used=float(used),
            whole=True,
            ours=True,
        )
        for name, size, used in [("old", 3, 1), ("middle", 2, 2), ("new", 4, 3)]
    ]

    assert plan_pruning(models, 9) == []
    assert [model.name for model in plan_pruning(models, 8.9)] == ["old"]
    assert [model.name for model in plan_pruning(models, 4)] == ["old", "middle"]
    assert [model.name for model in plan_pruning(models, 6, keep=["old"])] == ["middle", "new"]
    assert [model.name for model in plan_pruning(models, 0)] == ["old", "middle", "new"]


def test_pruning_leaves_other_programs_models_alone(cache: Path) -> None:
    gone = prune_cache(cache, 0.0, keep=[MINILM])

    assert [model.name for model in gone] == [QWEN]
    assert [model.name for model in list_cached(cache, named=[FOREIGN])] == [MINILM, FOREIGN]


def test_files_are_held_against_the_hashes_that_the_hub_stated(cache: Path) -> None:
    assert verify_files(QWEN, cache) == VerifiedFiles(("config.json", "model.safetensors", "tokenizer.json"), ())
    snapshot = find_cached(repo(QWEN), cache)
    assert snapshot is not None
    weights = Path(os.path.realpath(snapshot / "model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(CorruptCheckpoint, match=f"model.safetensors of {QWEN} is not what the Hub has"):
        verify_files(QWEN, cache)
    with pytest.raises(DownloadError, match=r"not known to be whole in the cache\. Fetch what is missing"):
        verify_files("qwen3-8b-4bit", cache)


def test_a_model_in_use_is_marked_and_a_folder_of_the_users_is_not(cache: Path, tmp_path: Path) -> None:
    snapshot = find_cached(repo(QWEN), cache)
    assert snapshot is not None
    mark_used(snapshot)
    assert [model.name for model in list_cached(cache)] == [QWEN, MINILM]

    before = sorted(path.name for path in tmp_path.rglob("*"))
    mark_used(tmp_path / "checkpoint")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("name", "why"), [("builtin", "inside this package"), ("no name", "neither a short name")])
def test_what_is_in_no_cache_is_named(name: str, why: str) -> None:
    with pytest.raises(ModelNotFound, match=why):
        repo_of(name)


def test_loading_keeps_the_cache_within_its_limit_and_reports_what_differs(cache: Path) -> None:
    unload_models()
    function = MLXEmbeddingFunction(QWEN, cache_dir=cache, auto_download=False)
    limited = MLXEmbeddingFunction(QWEN, cache_dir=cache, auto_download=False, max_cache_gb=1e-6)

    with pytest.warns(CheckpointDiffers, match="dimension is 32, not 1024") as warned:
        assert limited(["a text"])[0].shape == (32,)
    assert len(warned) == 1
    assert [model.name for model in list_cached(cache, named=[FOREIGN])] == [QWEN, FOREIGN]
    assert function(["a text"])[0].shape == (32,)
    unload_models()

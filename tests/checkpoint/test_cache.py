"""The models in the cache: listed, checked, removed; never another program's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_cache import put_into_cache
from hub_client import client_of
from hub_server import HubServer
from small import write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint.cache import (
    RECENT_S,
    CachedModel,
    VerifiedFiles,
    keep_within,
    list_cached,
    mark_used,
    plan_pruning,
    prune_cache,
    remove_model,
    repo_of,
    verify_files,
)
from chroma_mlx.checkpoint.partial import SUFFIX, claimed
from chroma_mlx.checkpoint.snapshot import find_cached
from chroma_mlx.engine.model import unload_models
from chroma_mlx.errors import CheckpointDiffers, CorruptCheckpoint, DownloadError, InputError, ModelNotFound
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
    put_into_cache(tmp_path / "hub", FOREIGN, checkpoint, used=10.0, ours=False)
    return tmp_path / "hub"


def test_the_models_of_the_table_are_listed_the_last_used_first(cache: Path) -> None:
    models = list_cached(cache)

    assert [model.name for model in models] == [MINILM, QWEN]
    assert [model.last_used for model in models] == [2_000.0, 1_000.0]
    assert all(model.whole and model.size_bytes > 10_000 for model in models)
    assert [model.name for model in list_cached(cache, named=[FOREIGN])] == [MINILM, QWEN, FOREIGN]


def test_a_model_outside_the_table_that_this_program_fetched_is_listed_and_pruned_only_by_its_name(
    cache: Path, tmp_path: Path
) -> None:
    put_into_cache(cache, "someone/ours", tmp_path / "checkpoint", used=5.0)
    begun = cache / "models--someone--begun" / "blobs"
    begun.mkdir(parents=True)
    (begun / f"{'a' * 64}{SUFFIX}").write_bytes(bytes(5_000))

    found = {model.name: (model.ours, model.whole) for model in list_cached(cache)}
    assert found == {
        MINILM: (True, True),
        QWEN: (True, True),
        "someone/ours": (True, True),
        "someone/begun": (True, False),
    }
    assert {model.name for model in prune_cache(cache, 0.0)} == {MINILM, QWEN}
    assert [model.name for model in prune_cache(cache, 0.0, named=["someone/ours"])] == ["someone/ours"]


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


@pytest.mark.parametrize("size", [float("nan"), -1, -1e400, "1", None, True])
def test_what_is_no_size_prunes_nothing(cache: Path, size: Any) -> None:
    with pytest.raises(InputError, match=r"may take .* GB, which is no size\. Pass 0 or more"):
        prune_cache(cache, size)
    assert prune_cache(cache, float("inf")) == []
    assert {model.name for model in list_cached(cache)} == {MINILM, QWEN}


def test_a_model_that_was_opened_just_now_is_pruned_only_by_the_command(cache: Path) -> None:
    keep_within(cache, 1e-6, keep=[], clock=lambda: 2_000.0 + RECENT_S - 1)
    assert [model.name for model in list_cached(cache)] == [MINILM], "the one that was opened before is gone"
    keep_within(cache, 1e-6, keep=[], clock=lambda: 2_000.0 + RECENT_S - 1)
    assert [model.name for model in prune_cache(cache, 1e-6)] == [MINILM]


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


def test_loading_reports_what_differs_and_prunes_nothing_that_it_did_not_make_room_for(cache: Path) -> None:
    unload_models()
    limited = MLXEmbeddingFunction(QWEN, cache_dir=cache, auto_download=False, max_cache_gb=1e-6)

    with pytest.warns(CheckpointDiffers, match="dimension is 32, not 1024") as warned:
        assert limited(["a text"])[0].shape == (32,)
    assert len(warned) == 1
    assert [model.name for model in list_cached(cache)] == [QWEN, MINILM], "pruned without a download"
    unload_models()


def test_a_download_keeps_the_cache_within_its_limit_but_for_what_is_in_use_and_others_models(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    in_use = put_into_cache(cache, repo("bge-small-en-v1.5"), checkpoint, used=5.0)
    put_into_cache(cache, repo("qwen3-4b-4bit"), checkpoint, used=1.0, ours=False)
    put_into_cache(cache, repo("qwen3-8b-4bit"), checkpoint, used=2.0, listed=False)
    unload_models()
    MLXEmbeddingFunction(str(in_use)).load()  # by its folder, which names no model
    wanted = repo("bge-base-en-v1.5")
    with HubServer.of_folder(wanted, checkpoint) as server, client_of(server, monkeypatch, tmp_path):
        function = MLXEmbeddingFunction(wanted, cache_dir=cache, max_cache_gb=1e-6, show_progress=False)
        with pytest.warns(CheckpointDiffers, match="dimension is 32, not 768"):
            function.load()

    left = {model.name for model in list_cached(cache, named=[FOREIGN])}
    assert left == {"bge-small-en-v1.5", "bge-base-en-v1.5", "qwen3-4b-4bit", "qwen3-8b-4bit", FOREIGN}
    unload_models()


def test_a_repository_without_a_snapshot_is_removed_whole(cache: Path) -> None:
    (repository,) = cache.glob(f"models--{repo(QWEN).replace('/', '--')}")
    for snapshot in (repository / "snapshots").iterdir():
        shutil.rmtree(snapshot)

    assert remove_model(QWEN, cache) > 10_000, "what the blobs took is free"
    assert not repository.exists()


def test_only_what_this_program_fetched_is_pruned_unless_it_is_named(cache: Path, tmp_path: Path) -> None:
    put_into_cache(cache, repo("qwen3-4b-4bit"), tmp_path / "checkpoint", used=1.0, ours=False)
    # A model of which another program has a commit, too, is not ours alone.
    (cache / f"models--{repo(QWEN).replace('/', '--')}" / "snapshots" / ("0" * 40)).mkdir()

    assert {model.name: model.ours for model in list_cached(cache)} == {
        QWEN: False,
        MINILM: True,
        "qwen3-4b-4bit": False,
    }
    assert [model.name for model in prune_cache(cache, 0.0)] == [MINILM]
    assert [model.name for model in prune_cache(cache, 0.0, named=["qwen3-4b-4bit"])] == ["qwen3-4b-4bit"]


# Unfinished downloads


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A cache with nothing but the beginning of a file."""
    blobs = tmp_path / "begun" / f"models--{repo(QWEN).replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{'a' * 64}{SUFFIX}").write_bytes(bytes(5_000))
    return tmp_path / "begun"


def test_what_an_unfinished_download_has_left_is_listed_and_removed(unfinished: Path) -> None:
    (model,) = list_cached(unfinished)
    assert (model.name, model.size_bytes, model.whole) == (QWEN, 5_000, False)

    assert remove_model(QWEN, unfinished) == 5_000
    assert list_cached(unfinished) == []
    with pytest.raises(ModelNotFound, match="is not in the cache, so there is nothing to remove"):
        remove_model(QWEN, unfinished)


def test_what_an_unfinished_download_has_left_is_pruned_unless_it_goes_on(unfinished: Path) -> None:
    (partial,) = unfinished.rglob(f"*{SUFFIX}")
    with claimed(partial.with_name("a" * 64)):
        assert prune_cache(unfinished, 0.0) == []
    assert [model.name for model in prune_cache(unfinished, 0.0)] == [QWEN]
    assert not list(unfinished.rglob(f"*{SUFFIX}"))


def test_the_unfinished_part_of_a_model_counts_and_goes_with_it(cache: Path) -> None:
    before = {model.name: model.size_bytes for model in list_cached(cache)}
    blobs = cache / f"models--{repo(QWEN).replace('/', '--')}" / "blobs"
    (blobs / f"{'b' * 64}{SUFFIX}").write_bytes(bytes(7_000))

    assert {model.name: model.size_bytes for model in list_cached(cache)}[QWEN] == before[QWEN] + 7_000
    assert remove_model(QWEN, cache) == before[QWEN] + 7_000
    assert not blobs.exists()


# Files held against their hashes, however the cache keeps them


def test_a_blob_in_a_store_of_another_kind_of_name_is_held_against_the_hubs_hash(cache: Path) -> None:
    snapshot = find_cached(repo(QWEN), cache)
    assert snapshot is not None
    blob = snapshot.parent.parent / "blobs" / os.path.basename(os.readlink(snapshot / "model.safetensors"))
    shared = cache / "blobs" / "ab" / ("ab" * 32)  # as huggingface_hub keeps a file that came by Xet
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    for listed in (True, False):
        if not listed:
            keep_clients_listing_without_hashes(snapshot)
        assert "model.safetensors" in verify_files(QWEN, cache).right
        with shared.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            last = stream.read(1)
            stream.seek(-1, os.SEEK_END)
            stream.write(bytes([last[0] ^ 1]))
        with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors of .* is not what the Hub has"):
            verify_files(QWEN, cache)
        with shared.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(last)


def test_files_without_links_are_held_against_the_listing_or_said_to_be_unchecked(cache: Path) -> None:
    snapshot = find_cached(repo(QWEN), cache)
    assert snapshot is not None
    for link in list(snapshot.iterdir()):  # as on a disk without links
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    assert verify_files(QWEN, cache).unchecked == ()
    weights = bytearray((snapshot / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (snapshot / "model.safetensors").write_bytes(weights)
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors of .* is not what the Hub has"):
        verify_files(QWEN, cache)

    keep_clients_listing_without_hashes(snapshot)
    assert verify_files(QWEN, cache) == VerifiedFiles((), ("config.json", "model.safetensors", "tokenizer.json"))


def keep_clients_listing_without_hashes(snapshot: Path) -> None:
    """Only the client's own listing is left, and it states sizes alone."""
    repository = snapshot.parent.parent
    (repository / f"chroma-mlx.{snapshot.name}.json").unlink()
    files = {path.name: {"size": path.stat().st_size} for path in snapshot.iterdir()}
    (repository / "trees").mkdir()
    listing = {"format_version": 1, "files": files}
    (repository / "trees" / f"{snapshot.name}.json").write_text(json.dumps(listing), encoding="utf-8")

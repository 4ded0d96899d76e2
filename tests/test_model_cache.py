"""The models of the cache as functions; what they do in detail is in tests/checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hub_cache import put_into_cache
from hub_client import client_of
from hub_server import HubServer
from small import write_checkpoint

from chroma_mlx import EmbeddingConfig, model_cache
from chroma_mlx.errors import ConfigError, DownloadError, InputError, ModelNotFound
from chroma_mlx.models.known import KNOWN_MODELS

QWEN, BGE = "qwen3-0.6b-4bit", "bge-small-en-v1.5"


@pytest.fixture
def config(tmp_path: Path) -> EmbeddingConfig:
    put_into_cache(tmp_path / "hub", repo(QWEN), write_checkpoint(tmp_path / "checkpoint"), used=1.0)
    return EmbeddingConfig(cache_dir=str(tmp_path / "hub"))


def repo(name: str) -> str:
    found = KNOWN_MODELS[name].repo_id
    assert found is not None
    return found


def test_a_model_is_listed_found_verified_described_and_removed(config: EmbeddingConfig) -> None:
    (model,) = model_cache.list_models(config=config)
    assert (model.name, model.whole, model.ours) == (QWEN, True, True)
    assert model_cache.model_path(QWEN, config=config).is_relative_to(model.folder)
    assert model_cache.verify_model(QWEN, config=config).unchecked == ()
    facts = model_cache.model_info(QWEN, config=config)
    assert (facts.table, facts.files.dimension) == (KNOWN_MODELS[QWEN], 32)
    assert model_cache.remove_model(QWEN, config=config) > 10_000
    with pytest.raises(DownloadError, match="is not whole in the cache"):
        model_cache.model_path(QWEN, config=config)


def test_pruning_says_what_would_go_before_it_goes(config: EmbeddingConfig) -> None:
    assert model_cache.prune_models(1.0, config=config) == []
    assert [model.name for model in model_cache.prune_models(0.0, dry_run=True, config=config)] == [QWEN]
    assert [model.name for model in model_cache.prune_models(0.0, config=config)] == [QWEN]
    assert model_cache.list_models(config=config) == []


@pytest.mark.parametrize("size", [float("nan"), -1.0])
def test_what_is_no_size_prunes_nothing_in_either_way(config: EmbeddingConfig, size: float) -> None:
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"may take .* GB, which is no size\. Pass 0 or more"):
            model_cache.prune_models(size, dry_run=dry_run, config=config)
    with pytest.raises(ConfigError, match=r"max_cache_gb is .*, which is not allowed"):
        EmbeddingConfig(max_cache_gb=size)
    assert [model.name for model in model_cache.list_models(config=config)] == [QWEN]


def test_a_download_shows_a_bar_as_the_configuration_says_unless_the_call_does(
    config: EmbeddingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with HubServer.of_folder(repo(BGE), tmp_path / "checkpoint") as server, client_of(server, monkeypatch, tmp_path):
        silent = EmbeddingConfig(cache_dir=config.cache_dir, show_progress=False)
        model_cache.download_model(BGE, config=silent)
        assert capfd.readouterr().err == ""
        model_cache.remove_model(BGE, config=config)
        model_cache.download_model(BGE, show_progress=True, config=silent)
        assert "model.safetensors" in capfd.readouterr().err


def test_a_download_makes_room_as_configured_and_keeps_what_it_brought(
    config: EmbeddingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = EmbeddingConfig(cache_dir=config.cache_dir, max_cache_gb=1e-6)
    with HubServer.of_folder(repo(BGE), tmp_path / "checkpoint") as server, client_of(server, monkeypatch, tmp_path):
        folder = model_cache.download_model(BGE, show_progress=False, config=limited)
        assert [model.name for model in model_cache.list_models(config=config)] == [BGE]
        put_into_cache(tmp_path / "hub", repo(QWEN), tmp_path / "checkpoint", used=1.0)
        assert model_cache.download_model(BGE, show_progress=False, config=limited) == folder
        assert {model.name for model in model_cache.list_models(config=config)} == {QWEN, BGE}, "nothing was fetched"


@pytest.mark.parametrize("name", [None, 3, Path("folder")])
@pytest.mark.parametrize("action", ["model_path", "download_model", "verify_model", "remove_model"])
def test_a_name_that_is_no_text_is_refused(name: Any, action: str) -> None:
    with pytest.raises(ConfigError, match=r"model_name is .*, which is not allowed"):
        getattr(model_cache, action)(name)


def test_pruning_names_what_is_not_there_and_removes_nothing(tmp_path: Path) -> None:
    config = EmbeddingConfig(cache_dir=str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"'missing/one' is not in the cache.*Nothing was removed"):
        model_cache.prune_models(0, also=["missing/one"], config=config)

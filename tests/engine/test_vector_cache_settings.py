"""Where the cache is set, and who computes all the same."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cached_vectors import FOLDER, embed

from chroma_mlx import EmbeddingConfig, EmbeddingRouter, MLXEmbeddingFunction
from chroma_mlx.diagnosis.verify import verify_model
from chroma_mlx.engine.vector_cache import shared_cache


def test_without_a_path_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shared_cache(None, 1.0) is None
    assert embed(["a"], None).cached == embed(["a"], None).cached == 0
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_the_file_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHROMA_MLX_EMBEDDING_CACHE", "~/some/folder/vectors")
    MLXEmbeddingFunction(FOLDER, device="cpu")(["a"])
    mode = (tmp_path / "some/folder/vectors").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_router_and_a_function_share_a_configured_file(file: Path, forwards: list[int]) -> None:
    config = EmbeddingConfig(model_name=FOLDER, device="cpu", embedding_cache=file)
    vectors = EmbeddingRouter(config).embed(["a", "b"])
    assert MLXEmbeddingFunction(config=config).encode(["a", "b"]).tobytes() == vectors.tobytes()
    assert sum(forwards) == 2


def test_a_check_of_the_model_computes_whatever_is_cached(file: Path, forwards: list[int]) -> None:
    router = EmbeddingRouter(model_name="builtin", device="cpu", embedding_cache=file)
    assert router.health_check()
    assert router.health_check()
    assert sum(forwards) == 2
    assert verify_model(router.config).verdict == "right"
    assert not file.exists()

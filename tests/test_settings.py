"""Settings: every value that is not allowed is refused by name, when they are made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from chroma_mlx.errors import ConfigError
from chroma_mlx.models.known import DEFAULT_MODEL, KNOWN_MODELS, find_known
from chroma_mlx.settings import MachineSettings, VectorSettings


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model_name", "", "a short name, a Hub repository id or a folder"),
        ("model_name", "  ", "a short name"),
        ("model_name", None, "a short name"),
        ("model_name", Path("model"), "a short name"),
        ("dimension", 0, "a whole number of 1 or more, or None"),
        ("dimension", -3, "a whole number of 1 or more"),
        ("dimension", 64.0, "a whole number of 1 or more"),
        ("dimension", "64", "a whole number of 1 or more"),
        ("dimension", True, "a whole number of 1 or more"),
        ("pooling", "max", "'last' or 'mean' or 'cls' or None"),
        ("pooling", "LAST", "'last' or 'mean'"),
        ("pooling", ["last"], "'last' or 'mean'"),
        ("normalize", 1, "True or False"),
        ("normalize", None, "True or False"),
        ("max_tokens", 0, "a whole number of 1 or more, or None"),
        ("query_instruction", 5, "a text, '' for none, or None"),
        ("document_instruction", b"x", "a text, '' for none, or None"),
        ("on_long_text", "cut", "'truncate' or 'error'"),
        ("on_long_text", None, "'truncate' or 'error'"),
    ],
)
def test_a_setting_of_the_vectors_that_is_not_allowed_is_named(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is .*, which is not allowed. Set it to {allowed}"):
        VectorSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("batch_size", 0, "a whole number of 1 or more"),
        ("batch_size", None, "a whole number of 1 or more"),
        ("batch_tokens", 1.5, "a whole number of 1 or more"),
        ("batch_timeout_ms", -1, "a number of milliseconds, 0 or more"),
        ("batch_timeout_ms", "5", "a number of milliseconds, 0 or more"),
        ("max_queue", 0, "a whole number of 1 or more"),
        ("max_queue", 1.5, "a whole number of 1 or more"),
        ("max_queue_tokens", -1, "a whole number of 1 or more"),
        ("max_queue_tokens", True, "a whole number of 1 or more"),
        ("queue_policy", "block", "'wait' or 'fail_fast'"),
        ("queue_policy", None, "'wait' or 'fail_fast'"),
        ("device", "cuda", "'auto' or 'gpu' or 'cpu'"),
        ("cache_dir", 3, "a folder, or None"),
        ("auto_download", "yes", "True or False"),
        ("show_progress", 0, "True or False"),
        ("embedding_cache", b"x", "a file, or None"),
        ("embedding_cache_gb", float("inf"), "a number of gigabytes greater than 0"),
    ],
)
def test_a_setting_of_the_machine_that_is_not_allowed_is_named(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is .*, which is not allowed. Set it to {allowed}"):
        MachineSettings(**{name: value})


@pytest.mark.parametrize(
    ("model", "dimension", "smallest", "largest"),
    [("builtin", 63, 64, 256), ("builtin", 257, 64, 256), ("qwen3-8b-4bit", 16, 32, 4096)],
)
def test_a_known_models_dimension_is_checked_before_it_is_loaded(
    model: str, dimension: int, smallest: int, largest: int
) -> None:
    with pytest.raises(
        ConfigError, match=f"dimension is {dimension}, but {model} gives .* {smallest} to {largest} dim"
    ):
        VectorSettings(model_name=model, dimension=dimension)
    for allowed in (smallest, largest):
        assert VectorSettings(model_name=model, dimension=allowed).dimension == allowed


def test_a_repository_of_the_table_is_checked_as_its_short_name_is() -> None:
    repo_id = KNOWN_MODELS[DEFAULT_MODEL].repo_id
    assert repo_id is not None
    with pytest.raises(ConfigError, match="32 to 1024 dimensions"):
        VectorSettings(model_name=repo_id, dimension=1025)


def test_settings_cannot_be_changed_and_are_equal_by_value() -> None:
    settings = VectorSettings(dimension=64)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'dimension'"):
        settings.dimension = 32  # type: ignore[misc]
    assert settings == VectorSettings(dimension=64)
    assert len({settings, VectorSettings(dimension=64), VectorSettings()}) == 2


def test_the_settings_that_are_saved_are_plain_json() -> None:
    settings = VectorSettings(model_name="builtin", dimension=64, query_instruction="find: ")
    assert VectorSettings(**json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings


def test_the_paths_of_caches_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert MachineSettings(cache_dir="~/models").cache_path == Path("/home/someone/models")
    assert MachineSettings(embedding_cache="~/vectors").embedding_cache_path == Path("/home/someone/vectors")
    assert MachineSettings().cache_path is MachineSettings().embedding_cache_path is None


def test_every_row_of_the_table_is_whole() -> None:
    assert DEFAULT_MODEL in KNOWN_MODELS
    for name, row in KNOWN_MODELS.items():
        assert row.name == name
        assert 1 <= row.min_dimension <= row.dimension
        assert row.source, f"{name} has no source for its figures"
        assert find_known(row.repo_id or name) is row
    assert [name for name, row in KNOWN_MODELS.items() if row.repo_id is None] == ["builtin"]

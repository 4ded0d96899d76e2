"""EmbeddingConfig: its keys, what they allow, and that it survives every form it is written in."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chroma_mlx import EmbeddingConfig
from chroma_mlx.errors import ConfigError
from chroma_mlx.settings import MachineSettings, VectorSettings

DEFAULTS = {
    "mode": "mlx",
    "model_name": "qwen3-0.6b-4bit",
    "dimension": None,
    "pooling": None,
    "normalize": True,
    "max_tokens": None,
    "query_instruction": None,
    "document_instruction": None,
    "on_long_text": "truncate",
    "batch_size": 128,
    "batch_tokens": 16_384,
    "batch_timeout_ms": 5,
    "max_queue": 4_096,
    "max_queue_tokens": 1_048_576,
    "queue_policy": "wait",
    "device": "auto",
    "own_process": None,
    "auto_download": True,
    "cache_dir": None,
    "max_cache_gb": None,
    "show_progress": None,
    "embedding_cache": None,
    "embedding_cache_gb": 1.0,
    "fallback": "none",
}

COUNTS = st.integers(1, 10**18)
TEXTS = st.text()  # surrogates are left out by default
NAMES = TEXTS.filter(lambda text: bool(text.strip()))
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["mlx", "user_provided", "mock"]),
        "model_name": NAMES,
        "dimension": st.none() | st.integers(64, 256),
        "pooling": st.sampled_from(["last", "mean", "cls", None]),
        "normalize": st.booleans(),
        "max_tokens": st.none() | COUNTS,
        "query_instruction": st.none() | TEXTS,
        "document_instruction": st.none() | TEXTS,
        "on_long_text": st.sampled_from(["truncate", "error"]),
        "batch_size": COUNTS,
        "batch_tokens": COUNTS,
        "batch_timeout_ms": st.integers(0, 10**18) | st.floats(0, 1e300),
        "max_queue": COUNTS,
        "max_queue_tokens": COUNTS,
        "queue_policy": st.sampled_from(["wait", "fail_fast"]),
        "device": st.sampled_from(["auto", "gpu", "cpu"]),
        "own_process": st.none() | st.booleans(),
        "auto_download": st.booleans(),
        "cache_dir": st.none() | NAMES.filter(lambda name: "\0" not in name),
        "max_cache_gb": st.none() | st.floats(0, 1e300, exclude_min=True),
        "show_progress": st.none() | st.booleans(),
        "embedding_cache": st.none() | NAMES.filter(lambda name: "\0" not in name),
        "embedding_cache_gb": st.floats(0, 1e300, exclude_min=True),
        "fallback": st.sampled_from(["none", "mock"]),
    },
).map(lambda values: EmbeddingConfig(**values))
each_config = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

REFUSED = [
    ("mode", "MLX", "mlx or user_provided or mock"),
    ("mode", None, "mlx or user_provided or mock"),
    ("model_name", "  ", "a short name, a Hub repository id or a folder"),
    ("model_name", 12, "a short name"),
    ("model_name", "\ud800", "a short name"),
    ("dimension", 0, "a whole number of 1 or more, or null"),
    ("dimension", "64", "a whole number of 1 or more, or null"),
    ("pooling", "max", "last or mean or cls or null"),
    ("normalize", "yes", "true or false"),
    ("normalize", 1, "true or false"),
    ("max_tokens", -1, "a whole number of 1 or more, or null"),
    ("query_instruction", 5, "a text, '' for none, or null"),
    ("document_instruction", ["a"], "a text, '' for none, or null"),
    ("on_long_text", False, "truncate or error"),
    ("batch_size", None, "a whole number of 1 or more"),
    ("batch_size", True, "a whole number of 1 or more"),
    ("batch_tokens", 1.0, "a whole number of 1 or more"),
    ("batch_timeout_ms", -0.5, "a number of milliseconds, 0 or more"),
    ("batch_timeout_ms", float("nan"), "a number of milliseconds, 0 or more"),
    ("batch_timeout_ms", float("inf"), "a number of milliseconds, 0 or more"),
    ("max_queue", 0, "a whole number of 1 or more"),
    ("max_queue", None, "a whole number of 1 or more"),
    ("max_queue_tokens", 4096.0, "a whole number of 1 or more"),
    ("max_queue_tokens", "1048576", "a whole number of 1 or more"),
    ("queue_policy", "fail-fast", "wait or fail_fast"),
    ("queue_policy", None, "wait or fail_fast"),
    ("device", "cuda", "auto or gpu or cpu"),
    ("own_process", "yes", "true or false"),
    ("auto_download", "false", "true or false"),
    ("cache_dir", "", "a folder, or null"),
    ("cache_dir", b"x", "a folder, or null"),
    ("max_cache_gb", 0, "a number of gigabytes greater than 0, or null"),
    ("max_cache_gb", True, "a number of gigabytes greater than 0, or null"),
    ("show_progress", 0, "true or false, or null"),
    ("embedding_cache", "", "a file, or null"),
    ("embedding_cache", 5, "a file, or null"),
    ("embedding_cache_gb", 0, "a number of gigabytes greater than 0"),
    ("embedding_cache_gb", None, "a number of gigabytes greater than 0"),
    ("fallback", None, "none or mock"),
]


def test_the_keys_and_their_defaults_are_these() -> None:
    assert EmbeddingConfig().to_dict() == {"embedding": DEFAULTS}


@pytest.mark.parametrize("data", [{}, {"embedding": {}}, {"embedding": None}])
def test_a_table_without_keys_is_the_defaults(data: dict[str, Any]) -> None:
    assert EmbeddingConfig.from_dict(data) == EmbeddingConfig()


def test_keys_left_out_of_a_table_have_their_defaults() -> None:
    config = EmbeddingConfig.from_dict({"embedding": {"batch_size": 8}})
    assert config.to_dict() == {"embedding": {**DEFAULTS, "batch_size": 8}}


def test_any_mapping_will_do_as_a_table() -> None:
    data = MappingProxyType({"embedding": MappingProxyType({"batch_size": 8})})
    assert EmbeddingConfig.from_dict(data) == EmbeddingConfig(batch_size=8)


def test_a_configuration_cannot_be_changed_and_is_equal_by_value() -> None:
    config = EmbeddingConfig(batch_size=8)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'batch_size'"):
        config.batch_size = 9  # type: ignore[misc]
    config.to_dict()["embedding"]["batch_size"] = 9
    assert config == EmbeddingConfig(batch_size=8)
    assert len({config, EmbeddingConfig(batch_size=8), EmbeddingConfig()}) == 2


@each_config
@given(config=CONFIGS)
def test_a_configuration_is_the_same_after_a_table_of_json(config: EmbeddingConfig) -> None:
    assert EmbeddingConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


@each_config
@given(config=CONFIGS)
@example(config=EmbeddingConfig(query_instruction="a\x85b"))
@example(config=EmbeddingConfig(query_instruction="a\u2028 \ufeff\r\n\t😀", document_instruction=" # 'b': |"))
def test_a_configuration_is_the_same_after_a_file(config: EmbeddingConfig, tmp_path: Path) -> None:
    path = tmp_path / f"{hash(config)}.yaml"  # one name for all would be one for the cache
    path.write_bytes(config.to_yaml().encode())
    assert EmbeddingConfig.from_yaml(path) == config


@each_config
@given(config=CONFIGS)
def test_the_parts_of_a_configuration_are_the_whole_but_for_its_mode_and_fallback(config: EmbeddingConfig) -> None:
    parts = {**dataclasses.asdict(config.vectors), **dataclasses.asdict(config.machine)}
    assert EmbeddingConfig(**parts, mode=config.mode, fallback=config.fallback) == config


def test_the_parts_of_the_defaults_are_the_settings_defaults() -> None:
    assert EmbeddingConfig().vectors == VectorSettings()
    assert EmbeddingConfig().machine == MachineSettings()


def test_caches_given_as_paths_are_written_as_text(tmp_path: Path) -> None:
    config = EmbeddingConfig(cache_dir=tmp_path / "models", embedding_cache=tmp_path / "vectors")
    assert config.to_dict()["embedding"]["cache_dir"] == str(tmp_path / "models")
    assert config.to_dict()["embedding"]["embedding_cache"] == str(tmp_path / "vectors")
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    for again in (EmbeddingConfig.from_dict(config.to_dict()), EmbeddingConfig.from_yaml(tmp_path / "c.yaml")):
        assert again.cache_path == tmp_path / "models"
        assert again.embedding_cache_path == tmp_path / "vectors"
        assert again.to_dict() == config.to_dict()


def test_a_path_of_bytes_is_no_cache_folder() -> None:
    class OfBytes(os.PathLike[bytes]):
        def __fspath__(self) -> bytes:
            return b"models"

    with pytest.raises(ConfigError, match=r"^cache_dir is .* Set it to a folder, or None\.$"):
        EmbeddingConfig(cache_dir=OfBytes())  # type: ignore[arg-type]


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_a_value_of_a_table_that_is_not_allowed_is_named_by_its_path(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"configuration: embedding\.{key}: .+ is not allowed\. Set it to {allowed}"):
        EmbeddingConfig.from_dict({"embedding": {key: value}})


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_an_argument_that_is_not_allowed_is_named(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is .+, which is not allowed. Set it to "):
        EmbeddingConfig(**{key: value})


def test_every_key_has_a_value_that_is_refused() -> None:
    assert {key for key, _, _ in REFUSED} == set(DEFAULTS)


def test_every_problem_of_a_table_is_said_at_once() -> None:
    data = {"embedding": {"modle_name": "builtin", "batch_size": 0, "normalize": "no"}, "models": []}
    with pytest.raises(ConfigError, match="has errors") as caught:
        EmbeddingConfig.from_dict(data)
    assert caught.value.problems == (
        "configuration: models: unknown key. The one known key is embedding.",
        "configuration: embedding.modle_name: unknown key. Did you mean model_name?",
        "configuration: embedding.batch_size: 0 is not allowed. Set it to a whole number of 1 or more.",
        'configuration: embedding.normalize: "no" is not allowed. Set it to true or false.',
    )
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_every_problem_of_the_arguments_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 0.*device is 'tpu'.*mode is 'x'") as caught:
        EmbeddingConfig(mode="x", batch_size=0, device="tpu")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"it holds \[\], not a table\. Begin it with `embedding:`"),
        ("mlx", 'it holds "mlx", not a table'),
        ({"embedding": ["a"]}, r'embedding: it is \["a"\], not a table of keys'),
        ({"batch_size": 3}, "batch_size: unknown key. It belongs under `embedding:`"),
        ({"embedding": {"who": {}}}, r"embedding\.who: unknown key\. Known are mode, .*, fallback\."),
        ({"embedding": {1: 2}}, r"embedding\.1: unknown key"),
        ({"embedding": {"Mode": "mlx"}}, r"embedding\.Mode: unknown key\. Did you mean mode\?"),
    ],
)
def test_what_is_no_table_of_known_keys_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"configuration: {message}"):
        EmbeddingConfig.from_dict(data)


RING: list[Any] = []
RING.append(RING)


@pytest.mark.parametrize(
    "value", [{(1, 2): 3}, RING, 10**5000, object(), {1, 2}], ids=["tuple as key", "ring", "huge", "object", "set"]
)
def test_a_value_that_json_cannot_show_is_refused_as_any_other(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"embedding\.model_name: .+ is not allowed"):
        EmbeddingConfig.from_dict({"embedding": {"model_name": value}})


@pytest.mark.parametrize("key", ["batch_timeout_ms", "max_cache_gb", "embedding_cache_gb"])
def test_a_whole_number_beyond_every_float_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is .*, which is not allowed. Set it to a number of"):
        EmbeddingConfig(**{key: 10**400})


def test_a_dimension_is_checked_where_a_model_of_the_table_makes_the_vectors() -> None:
    values: dict[str, Any] = {"model_name": "builtin", "dimension": 512}
    with pytest.raises(
        ConfigError,
        match=r"embedding\.dimension: 512 is not allowed\. The model builtin gives vectors of 64 to 256 dimensions",
    ):
        EmbeddingConfig.from_dict({"embedding": values})
    for mode in ("mock", "user_provided"):
        assert EmbeddingConfig.from_dict({"embedding": {**values, "mode": mode}}).dimension == 512
    assert EmbeddingConfig(model_name="someone/model", dimension=99_999).dimension == 99_999

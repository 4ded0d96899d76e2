"""Where the values come from, and who wins: arguments, an object, the environment, one file, the defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.config import resolve, yaml_file
from chroma_mlx.errors import ConfigError
from chroma_mlx.settings import VectorSettings


def write(path: Path, **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"  {key}: {value}" for key, value in values.items()]
    path.write_text("\n".join(["embedding:", *lines, ""]), encoding="utf-8")
    return path


def user_file() -> Path:
    return platformdirs.user_config_path("chroma-mlx") / "embedding_config.yaml"


def in_the_user_folder(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    write(user_file(), max_tokens=value)
    return {}


def in_the_working_folder(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    write(Path("embedding_config.yaml"), max_tokens=value)
    return {}


def in_the_file_of_the_variable(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    patch.setenv("CHROMA_MLX_CONFIG", str(write(Path("named.yaml"), max_tokens=value)))
    return {}


def in_a_given_file(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    return {"config": write(Path("given.yaml"), max_tokens=value)}


def in_a_variable(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    patch.setenv("CHROMA_MLX_MAX_TOKENS", str(value))
    return {}


def in_an_object(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    return {"config": EmbeddingConfig(max_tokens=value)}


def in_an_argument(patch: pytest.MonkeyPatch, value: int) -> dict[str, Any]:
    return {"max_tokens": value}


# Lowest first, with how the source is named.
LADDER: list[tuple[Callable[[pytest.MonkeyPatch, int], dict[str, Any]], str]] = [
    (in_the_user_folder, "{user} (user's configuration)"),
    (in_the_working_folder, "embedding_config.yaml (working folder)"),
    (in_the_file_of_the_variable, "named.yaml (CHROMA_MLX_CONFIG)"),
    (in_a_given_file, "given.yaml (given)"),
    (in_a_variable, "CHROMA_MLX_MAX_TOKENS"),
    (in_an_object, "configuration object"),
    (in_an_argument, "argument"),
]


def climb(patch: pytest.MonkeyPatch, steps: int) -> dict[str, Any]:
    """Sets max_tokens to 101, 102, … in the lowest `steps` places; what is to be passed on."""
    passed: dict[str, Any] = {}
    for value, (place, _) in enumerate(LADDER[:steps], start=101):
        passed |= place(patch, value)
    return passed


@pytest.mark.parametrize("steps", range(1, len(LADDER) + 1))
def test_each_place_wins_over_all_that_are_lower(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = climb(monkeypatch, steps)
    config = passed.pop("config", None)
    effective = resolve(config, passed)
    assert effective.config.max_tokens == 100 + steps
    assert effective.sources["max_tokens"] == LADDER[steps - 1][1].format(user=user_file())


@pytest.mark.parametrize("steps", range(1, len(LADDER) + 1))
def test_a_function_takes_its_values_in_the_same_order(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MLXEmbeddingFunction(**climb(monkeypatch, steps)).get_config()["max_tokens"] == 100 + steps


@pytest.mark.parametrize("steps", range(1, len(LADDER) - 1))
def test_from_yaml_finds_the_same(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EmbeddingConfig.from_yaml(climb(monkeypatch, steps).get("config")).max_tokens == 100 + steps


def test_without_any_place_every_value_is_the_default() -> None:
    effective = resolve()
    assert effective.config == EmbeddingConfig()
    assert set(effective.sources.values()) == {"default"}
    assert list(effective.sources) == list(EmbeddingConfig().to_dict()["embedding"])


def test_one_file_is_in_force_and_the_lower_ones_are_not_mixed_in() -> None:
    write(user_file(), batch_size=7, device="cpu")
    write(Path("embedding_config.yaml"), batch_size=8)
    effective = resolve()
    assert effective.config == EmbeddingConfig(batch_size=8)
    assert effective.sources["device"] == "default"


def test_single_values_come_each_from_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("embedding_config.yaml"), batch_size=7, batch_tokens=8, device="cpu")
    monkeypatch.setenv("CHROMA_MLX_BATCH_TOKENS", "9")
    effective = resolve(None, {"device": "gpu"})
    assert effective.config == EmbeddingConfig(batch_size=7, batch_tokens=9, device="gpu")
    assert [effective.sources[key] for key in ("batch_size", "batch_tokens", "device", "mode")] == [
        "embedding_config.yaml (working folder)",
        "CHROMA_MLX_BATCH_TOKENS",
        "argument",
        "default",
    ]


def test_an_object_wins_with_its_defaults_too(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("embedding_config.yaml"), max_tokens=7)
    monkeypatch.setenv("CHROMA_MLX_DEVICE", "cpu")
    assert resolve(EmbeddingConfig(batch_size=3)).config == EmbeddingConfig(batch_size=3)


def test_none_as_an_argument_wins_over_a_file() -> None:
    write(Path("embedding_config.yaml"), model_name="builtin", dimension=64)
    assert MLXEmbeddingFunction().get_config()["dimension"] == 64
    assert MLXEmbeddingFunction(dimension=None).get_config()["dimension"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has its own folder")
def test_on_linux_the_user_folder_is_below_xdg_config_home(tmp_path: Path) -> None:
    write(tmp_path / "xdg" / "chroma-mlx" / "embedding_config.yaml", batch_size=7)
    assert EmbeddingConfig.from_yaml().batch_size == 7


@pytest.mark.parametrize("as_given", [str, Path])
def test_a_path_is_taken_as_text_or_path_and_its_tilde_is_expanded(
    as_given: type[str] | type[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "home.yaml", batch_size=7)
    assert EmbeddingConfig.from_yaml(as_given("~/home.yaml")).batch_size == 7
    assert "device='cpu'" in repr(MLXEmbeddingFunction(config=as_given(write(tmp_path / "d.yaml", device="cpu"))))
    monkeypatch.setenv("CHROMA_MLX_CONFIG", "~/home.yaml")
    assert EmbeddingConfig.from_yaml().batch_size == 7


def test_a_named_file_that_is_missing_stops_though_another_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("embedding_config.yaml"), batch_size=7)
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read \(No such file or directory\)"):
        EmbeddingConfig.from_yaml("no.yaml")
    monkeypatch.setenv("CHROMA_MLX_CONFIG", "no.yaml")
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read \(No such file or directory\)"):
        EmbeddingConfig.from_yaml()


@pytest.mark.parametrize(
    "path", ["a\0b.yaml", "~no-such-user-at-all/c.yaml", "x" * 5000], ids=["NUL", "no user", "long"]
)
def test_a_path_that_cannot_be_is_a_configuration_error(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        EmbeddingConfig.from_yaml(path)


@pytest.mark.parametrize("config", [5, b"c.yaml", {"embedding": {}}])
def test_what_is_neither_a_configuration_nor_a_path_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="EmbeddingConfig"):
        MLXEmbeddingFunction(config=config)


def test_a_user_folder_that_cannot_be_asked_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name too long is refused to root as well, where a folder without permission is not.
    monkeypatch.setattr(platformdirs, "user_config_path", lambda *_: tmp_path / ("x" * 300))
    with pytest.raises(ConfigError, match=r"embedding_config\.yaml cannot be read"):
        EmbeddingConfig.from_yaml()


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("embedding_config.yaml"), batch_size=7)
    monkeypatch.setenv("CHROMA_MLX_CONFIG", "")
    assert EmbeddingConfig.from_yaml().batch_size == 7


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("mode", "mock", "mock"),
        ("model_name", "12", "12"),
        ("model_name", "2024-01-01", "2024-01-01"),
        ("model_name", "true", "true"),
        ("model_name", "C: models", "C: models"),
        ("model_name", "", "qwen3-0.6b-4bit"),
        ("dimension", "64", 64),
        ("dimension", "null", None),
        ("pooling", "mean", "mean"),
        ("normalize", "false", False),
        ("normalize", "TRUE", True),
        ("max_tokens", " 5 ", 5),
        ("query_instruction", "", ""),
        ("query_instruction", "null", None),
        ("query_instruction", "Find: ", "Find: "),
        ("document_instruction", "12", "12"),
        ("document_instruction", "日\n'x'", "日\n'x'"),
        ("on_long_text", "error", "error"),
        ("batch_size", "7", 7),
        ("batch_size", "", 128),
        ("batch_tokens", "0x10", 16),
        ("batch_timeout_ms", "1.5", 1.5),
        ("batch_timeout_ms", "0", 0),
        ("device", "cpu", "cpu"),
        ("auto_download", "no", False),
        ("cache_dir", "~/models", "~/models"),
        ("cache_dir", "5", "5"),
        ("cache_dir", "", None),
        ("max_cache_gb", "0.5", 0.5),
        ("show_progress", "false", False),
        ("embedding_cache", "~/vectors", "~/vectors"),
        ("embedding_cache", "", None),
        ("embedding_cache_gb", "0.25", 0.25),
        ("fallback", "mock", "mock"),
        ("fallback", "none", "none"),
    ],
)
def test_a_variable_is_read_as_its_key_wants_it_and_an_empty_one_is_as_none(
    key: str, text: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CHROMA_MLX_{key.upper()}", text)
    effective = resolve()
    assert getattr(effective.config, key) == value
    assert type(getattr(effective.config, key)) is type(value)
    set_by_it = text != "" or key == "query_instruction"
    assert effective.sources[key] == (f"CHROMA_MLX_{key.upper()}" if set_by_it else "default")


def test_null_in_a_variable_takes_a_value_back_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("embedding_config.yaml"), dimension=64, cache_dir="models", query_instruction="'Find: '")
    for key in ("DIMENSION", "CACHE_DIR", "QUERY_INSTRUCTION"):
        monkeypatch.setenv(f"CHROMA_MLX_{key}", "null")
    assert EmbeddingConfig.from_yaml() == EmbeddingConfig()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("BATCH_SIZE", "null", "null is not allowed. Set it to a whole number of 1 or more"),
        ("BATCH_SIZE", "true", "true is not allowed. Set it to a whole number"),
        ("BATCH_SIZE", "1.5", "1.5 is not allowed. Set it to a whole number"),
        ("BATCH_SIZE", "1e3", '"1e3" is not allowed. Set it to a whole number'),
        ("BATCH_SIZE", "many", '"many" is not allowed. Set it to a whole number'),
        ("BATCH_SIZE", "[5]", r"\[5\] is not allowed"),
        ("BATCH_SIZE", "a: b: c", '"a: b: c" is not allowed'),
        ("BATCH_SIZE", "!!python/name:os.system", '"!!python/name:os.system" is not allowed'),
        ("BATCH_SIZE", "!!bool abc", '"!!bool abc" is not allowed'),
        ("BATCH_SIZE", "&a [*a]", ".+ is not allowed"),
        ("BATCH_SIZE", "1:" * 5000 + "1", ".+ is not allowed"),
        ("BATCH_TIMEOUT_MS", "9" * 400, "9+…? is not allowed. Set it to a number of milliseconds"),
        ("MAX_CACHE_GB", "0", "0 is not allowed. Set it to a number of gigabytes greater than 0, or null"),
        ("NORMALIZE", "1", "1 is not allowed. Set it to true or false"),
        ("DIMENSION", "none", '"none" is not allowed. Set it to a whole number of 1 or more, or null'),
        ("DIMENSION", "5000", "5000 is not allowed. The model qwen3-0.6b-4bit gives vectors of 32 to 1024 dimensions"),
        ("MODE", "MOCK", '"MOCK" is not allowed. Set it to mlx or user_provided or mock'),
        ("MODEL_NAME", "null", "null is not allowed. Set it to a short name"),
        ("MODEL_NAME", "\udcff", ".+ is not allowed"),
        ("POOLING", "none", '"none" is not allowed. Set it to last or mean or cls or null'),
        ("MODLE", "x", r"unknown variable\. Did you mean CHROMA_MLX_MODE\?"),
        ("MODLE_NAME", "", r"unknown variable\. Did you mean CHROMA_MLX_MODEL_NAME\?"),
        ("CONFIG_FILE", "x", r"unknown variable\. Did you mean CHROMA_MLX_CONFIG\?"),
        ("", "x", "unknown variable"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_variable_that_is_not_allowed_is_named_with_its_value(
    name: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CHROMA_MLX_{name}", text)
    with pytest.raises(ConfigError, match=f"is not valid:\n  CHROMA_MLX_{name}: {message}"):
        EmbeddingConfig.from_yaml()


def test_the_variable_of_the_blas_library_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_MLX_BLAS", "/usr/lib/libblas.so")
    assert EmbeddingConfig.from_yaml() == EmbeddingConfig()


def test_every_problem_of_the_file_and_of_the_environment_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(Path("given.yaml"), batch_sise=3, normalize=4)
    monkeypatch.setenv("CHROMA_MLX_DEVICE", "tpu")
    monkeypatch.setenv("CHROMA_MLX_MODLE", "mock")
    with pytest.raises(ConfigError, match=r"^The configuration has errors:\n") as caught:
        MLXEmbeddingFunction(config=path)
    assert caught.value.problems == (
        "given.yaml: embedding.batch_sise: unknown key. Did you mean batch_size?",
        "given.yaml: embedding.normalize: 4 is not allowed. Set it to true or false.",
        'CHROMA_MLX_DEVICE: "tpu" is not allowed. Set it to auto or gpu or cpu.',
        "CHROMA_MLX_MODLE: unknown variable. Did you mean CHROMA_MLX_MODE?",
    )
    assert str(caught.value).splitlines()[1:] == [f"  {problem}" for problem in caught.value.problems]


def test_a_dimension_that_the_model_has_not_is_named_by_its_path_beside_the_other_problems() -> None:
    path = write(Path("given.yaml"), model_name="builtin", dimension=512, batch_size=0)
    with pytest.raises(ConfigError, match="has errors") as caught:
        EmbeddingConfig.from_yaml(path)
    problems = caught.value.problems
    assert any("given.yaml: embedding.batch_size: 0" in problem for problem in problems)
    assert any("given.yaml: embedding.dimension: 512" in each and "64 to 256" in each for each in problems)


def test_a_dimension_of_a_file_is_checked_against_the_model_of_an_argument() -> None:
    path = write(Path("given.yaml"), dimension=512)
    assert MLXEmbeddingFunction(config=path).get_config()["dimension"] == 512
    with pytest.raises(ConfigError, match=r"given\.yaml.*512.*builtin gives vectors of 64 to 256 dimensions"):
        MLXEmbeddingFunction("builtin", config=path)


@pytest.mark.parametrize(
    "saved",
    [
        {"model_name": "builtin"},
        {"model_name": "builtin", "dimension": 64, "normalize": True, "query_instruction": "Find: "},
        VectorSettings(model_name="builtin", on_long_text="error").to_dict(),
    ],
)
def test_a_rebuilt_function_has_its_vectors_from_the_collection_and_its_machine_from_here(
    saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        Path("embedding_config.yaml"),
        mode="mock",
        model_name="someone/model",
        dimension=512,
        pooling="cls",
        normalize="false",
        max_tokens=7,
        document_instruction="Read",
        device="cpu",
    )
    monkeypatch.setenv("CHROMA_MLX_QUERY_INSTRUCTION", "Seek")
    rebuilt = MLXEmbeddingFunction.build_from_config(saved)
    assert rebuilt.get_config() == VectorSettings(**saved).to_dict()
    assert repr(rebuilt).endswith("device='cpu')")
    monkeypatch.setenv("CHROMA_MLX_DEVICE", "gpu")
    assert repr(MLXEmbeddingFunction.build_from_config(saved)).endswith("device='gpu')")


def test_a_function_is_rebuilt_only_where_the_configuration_is_valid() -> None:
    write(Path("embedding_config.yaml"), device="tpu")
    with pytest.raises(ConfigError, match=r'embedding_config\.yaml: embedding\.device: "tpu" is not allowed'):
        MLXEmbeddingFunction.build_from_config({"model_name": "builtin"})


def test_nothing_of_the_machine_is_saved() -> None:
    function = MLXEmbeddingFunction(config=EmbeddingConfig(model_name="builtin", device="cpu", batch_size=3))
    assert function.get_config() == VectorSettings(model_name="builtin").to_dict()


def test_a_changed_file_is_seen_by_the_next_call(tmp_path: Path) -> None:
    path = write(Path("embedding_config.yaml"), batch_size=7)
    assert EmbeddingConfig.from_yaml().batch_size == 7
    write(path, batch_size=128)
    assert EmbeddingConfig.from_yaml().batch_size == 128
    write(path, batch_size=129)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert EmbeddingConfig.from_yaml().batch_size == 129
    write(tmp_path / "new.yaml", batch_size=5).replace(path)
    assert EmbeddingConfig.from_yaml().batch_size == 5
    path.write_text("embedding: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be used as YAML"):
        EmbeddingConfig.from_yaml()
    path.unlink()
    assert EmbeddingConfig.from_yaml() == EmbeddingConfig()


def test_a_file_of_another_working_folder_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a", 3), ("b", 4)):
        path = write(tmp_path / name / "embedding_config.yaml", batch_size=size)
        os.utime(path, ns=(0, 0))
    for name, size in (("a", 3), ("b", 4), ("a", 3)):
        monkeypatch.chdir(tmp_path / name)
        assert EmbeddingConfig.from_yaml().batch_size == size


def test_a_file_that_has_not_changed_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = yaml_file.parse_yaml
    monkeypatch.setattr(yaml_file, "parse_yaml", lambda text: (parsed.append(text), parse(text))[1])
    write(Path("embedding_config.yaml"), batch_size=7)
    assert [EmbeddingConfig.from_yaml().batch_size for _ in range(5)] == [7] * 5
    assert len(parsed) == 1

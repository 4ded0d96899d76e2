"""The file: what of YAML is read, and that a broken or hostile file stops with its name and the reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from chroma_mlx import EmbeddingConfig
from chroma_mlx.errors import ConfigError


def short(value: object) -> str:
    return ascii(value)[:60]


def load(content: str | bytes) -> EmbeddingConfig:
    path = Path("given.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return EmbeddingConfig.from_yaml(path)


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n", "\n\n", "embedding:\n", "{}", "\ufeff", "null"])
def test_a_file_with_nothing_in_it_is_the_defaults(content: str) -> None:
    assert load(content) == EmbeddingConfig()


@pytest.mark.parametrize(
    ("content", "key", "value"),
    [
        ("embedding:\r\n  batch_size: 3\r\n", "batch_size", 3),
        ("\ufeffembedding:\n  batch_size: 3\n", "batch_size", 3),
        ("embedding:\n  batch_size: 3", "batch_size", 3),
        ("--- # one document\nembedding:\n  batch_size: 3\n...\n", "batch_size", 3),
        ('{"embedding": {"batch_size": 3}}', "batch_size", 3),
        ("embedding: {batch_size: 0x10}", "batch_size", 16),
        ("embedding: {batch_size: 1_000}", "batch_size", 1000),
        ("embedding: {batch_timeout_ms: 1.5e+3}", "batch_timeout_ms", 1500.0),
        ("embedding: {normalize: off}", "normalize", False),
        ("embedding: {dimension: ~}", "dimension", None),
        ("embedding: {model_name: '2024-01-01'}", "model_name", "2024-01-01"),
        ("embedding: {cache_dir: ~/models}", "cache_dir", "~/models"),
        ("embedding:\n  query_instruction: |\n    日\n    é\n", "query_instruction", "日\né\n"),
        ("embedding: {query_instruction: ''}", "query_instruction", ""),
        ("embedding: {fallback: none}", "fallback", "none"),
    ],
)
def test_what_yaml_has_for_a_value_is_read(content: str, key: str, value: Any) -> None:
    loaded = getattr(load(content), key)
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("model_name: 2024-01-01", r'embedding\.model_name: "2024-01-01" is not allowed\. Set it to a short name'),
        ("model_name: 2001-01-01 10:00:00", r'embedding\.model_name: "2001-01-01 10:00:00" is not allowed'),
        ("model_name:", r"embedding\.model_name: null is not allowed"),
        ('model_name: "\\ud800"', r"embedding\.model_name: .+ is not allowed"),
        ("batch_size: 1e3", r'embedding\.batch_size: "1e3" is not allowed\. Set it to a whole number of 1 or more\.'),
        ("batch_size: 0o17", r'embedding\.batch_size: "0o17" is not allowed'),
        ("batch_size: 1.0", r"embedding\.batch_size: 1\.0 is not allowed"),
        ("batch_size: -0", r"embedding\.batch_size: 0 is not allowed"),
        (f"model_name: {'1:' * 5000}1", r"embedding\.model_name: .+ is not allowed"),
        ("batch_size: {? [1] : 2}", "found unhashable key"),
        ("batch_timeout_ms: .nan", r"embedding\.batch_timeout_ms: NaN is not allowed"),
        ("batch_timeout_ms: .inf", r"embedding\.batch_timeout_ms: Infinity is not allowed"),
        (
            f"max_cache_gb: {'9' * 400}",
            r"embedding\.max_cache_gb: 9+…? is not allowed. Set it to a number of gigabytes",
        ),
        ("max_cache_gb: 0", r"embedding\.max_cache_gb: 0 is not allowed\. Set it to a number of gigabytes greater"),
        ("on_long_text: no", r"embedding\.on_long_text: false is not allowed\. Set it to truncate or error"),
        ("fallback: null", r"embedding\.fallback: null is not allowed\. Set it to none or mock"),
        (
            "dimension: '64'",
            r'embedding\.dimension: "64" is not allowed\. Set it to a whole number of 1 or more, or null',
        ),
        ("cache_dir: ''", r'embedding\.cache_dir: "" is not allowed\. Set it to a folder, or null'),
        ('cache_dir: "a\\0b"', r"embedding\.cache_dir: .+ is not allowed"),
        ("batch_sise: 3", r"embedding\.batch_sise: unknown key\. Did you mean batch_size\?"),
        ("temperature: 3", r"embedding\.temperature: unknown key\. Known are mode, model_name, "),
        ("1: 3", r"embedding\.1: unknown key"),
        ("null: 3", r"embedding\.null: unknown key"),
        ("2024-01-01: 3", r'embedding\."2024-01-01": unknown key'),
    ],
    ids=short,
)
def test_an_entry_that_is_not_allowed_is_named_with_its_file_path_and_value(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"given\.yaml[: ][\s\S]*{message}"):
        load(f"embedding:\n  {entry}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b", r': it holds \["a", "b"\], not a table\. Begin it with `embedding:`\.'),
        ("just text", ': it holds "just text", not a table'),
        ("3", ": it holds 3, not a table"),
        ("embedding: [a]", r': embedding: it is \["a"\], not a table of keys'),
        ("embedding: !!set {batch_size}", " .*line 1: .*:set is a tag, and a configuration has none"),
        ("embedding: {model_name: !!str 12}", " .*line 1: .*:str is a tag"),
        ("&a [*a]", r" .*line 1: \*a is an alias, and a configuration has none"),
        ("embedding:\n  batch_size: &a [*a]", r" .*line 2: \*a is an alias"),
        ("embedding: {query_instruction: &q 'Read: ', document_instruction: *q}", r" .*\*q is an alias"),
        ("batch_size: 3", ": batch_size: unknown key. It belongs under `embedding:`"),
        ("embedding: {}\nother: 1", ": other: unknown key. The one known key is embedding"),
        ("Embedding:\n  batch_size: 3", ": Embedding: unknown key"),
        ("embedding: {}\nembedding: {}", " .*line 2: embedding is given twice"),
        ("embedding:\n  batch_size: 3\n  batch_size: 4", " .*batch_size is given twice"),
        ("embedding:\n  batch_size: 3\n  'batch_size': 3", " .*batch_size is given twice"),
        ("embedding:\n  <<: {batch_size: 3}", " .*line 2: << merges tables"),
        ("embedding: {}\n---\nembedding: {}", " .*expected a single document"),
        ("embedding:\n\tbatch_size: 3", r" .*\n?.*'\\t' that cannot start any token"),
        ("embedding: [", " cannot be used as YAML"),
        ("embedding: *nowhere", r" .*\*nowhere is an alias"),
        ("embedding: {model_name: a\0b}", " .*unacceptable character #x0000"),
        ("embedding: {batch_size: 1999-99-99}", " .*month must be in 1..12"),
        ("embedding: {batch_size: " + "9" * 5000 + "}", " .*digits"),
        ("embedding: {batch_size: !!int abc}", " cannot be used as YAML"),
        ("embedding: {batch_size: !!int ''}", " cannot be used as YAML"),
        ("embedding: {batch_size: !!float abc}", " cannot be used as YAML"),
        ("embedding: {normalize: !!bool abc}", " cannot be used as YAML"),
        ("embedding: {batch_size: !!timestamp abc}", " cannot be used as YAML"),
        ("%YAML 9.9\n---\n", " .*incompatible YAML document"),
        (b"embedding: {model_name: \xe9}", r" is not UTF-8 .*Save it as UTF-8"),
        ("embedding: {}".encode("utf-16"), r" is not UTF-8 .*Save it as UTF-8"),
    ],
    ids=short,
)
def test_a_file_that_is_no_configuration_is_refused_by_name(content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"given\.yaml{message}"):
        load(content)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [made]]",
        "!!python/object/new:pathlib.Path [made]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [a]",
        "!own 3",
    ],
)
def test_a_tag_that_makes_objects_is_refused_and_makes_none(tag: str) -> None:
    with pytest.raises(ConfigError, match=r"given\.yaml cannot be used as YAML: line 2: .* is a tag"):
        load(f"embedding:\n  model_name: {tag}\n")
    assert not Path("made").exists()


LAUGHS = "".join(f"{n}: &{n} [{','.join([f'*{m}'] * 9)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#" * 1_000_000, r"given\.yaml has 1,000,000 bytes, but a configuration has at most 65,536"),
        (b"#" * 65_537, "has 65,537 bytes"),
        ("[" * 30_000, "nested more than 16 deep"),
        ("- " * 20_000, "nested more than 16 deep"),
        ("{a: " * 17, "nested more than 16 deep"),
        ("a: &a [laugh, laugh]\n" + LAUGHS, r"\*a is an alias"),
        ("a: &a {batch_size: 3}\nembedding: {<<: [" + "*a, " * 17 + "]}", r"\*a is an alias"),
    ],
    ids=short,
)
def test_a_file_that_would_grow_or_nest_without_end_is_refused_at_once(content: str | bytes, message: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigError, match=message):
        load(content)
    took = time.process_time() - begun
    assert took < 1, f"refusing it took {took:.1f} s"


def test_a_file_of_the_largest_size_is_read() -> None:
    assert load(b"embedding: {batch_size: 3} ".ljust(65_536, b"#")).batch_size == 3


MERGES = "\n".join(f"- &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]}}" for n in range(1, 5))


@pytest.mark.parametrize(
    "content",
    [
        "embedding: {" + ",".join(f"k{n}: 1" for n in range(5000)) + "}",
        "{" + ",".join(f"{n:x}" for n in range(12_000)) + "}",
        "- &a0 {" + ",".join(f"k{n}" for n in range(5000)) + "}\n" + MERGES,
    ],
    ids=["keys of the section", "keys of the file", "merged keys"],
)
def test_a_small_file_of_thousands_of_keys_is_refused_at_once_in_a_short_message(content: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigError, match=r"given\.yaml") as caught:
        load(content)
    took = time.process_time() - begun
    assert len(str(caught.value)) < 10_000, f"the message has {len(str(caught.value)):,} characters"
    assert took < 1, f"refusing it took {took:.1f} s"


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(ConfigError, match=r'embedding\.device: "x{70,79}… is not allowed'):
        load(f"embedding: {{device: {'x' * 5000}}}")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        EmbeddingConfig.from_yaml(tmp_path)
    Path("embedding_config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"embedding_config\.yaml cannot be read \(Is a directory\)"):
        EmbeddingConfig.from_yaml()


def test_a_missing_file_is_named_and_the_command_that_writes_one() -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read \(No such file.*`chroma-mlx config init` writes"):
        EmbeddingConfig.from_yaml("no.yaml")


def test_a_file_is_the_same_after_it_was_refused() -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"embedding\.batch_size: 0 is not allowed"):
            load("embedding: {batch_size: 0}")
    assert load("embedding: {batch_size: 10}").batch_size == 10

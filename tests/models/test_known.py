"""The table of known models holds only rows that can be, its own ones among them."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from chroma_mlx.errors import ConfigError
from chroma_mlx.models import known
from chroma_mlx.models.known import KNOWN_MODELS, KnownModel, find_known, register_model

ROW = {
    "name": "mine",
    "repo_id": "me/mine",
    "architecture": "bert",
    "dimension": 384,
    "min_dimension": 384,
    "max_tokens": 512,
    "pooling": "mean",
    "parameters": 33_360_000,
    "bits": 16,
    "licence": "MIT",
    "summary": "my own",
    "source": "https://huggingface.co/me/mine",
}


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, KnownModel]:
    """A table of this test's own."""
    rows = dict(KNOWN_MODELS)
    monkeypatch.setattr(known, "KNOWN_MODELS", rows)
    return rows


def row(**changed: Any) -> KnownModel:
    return KnownModel(**{**ROW, **changed})


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("name", None, "a short name of letters"),
        ("name", "", "a short name of letters"),
        ("name", "a/b", "without a slash"),
        ("name", "two words", "a short name of letters"),
        ("repo_id", "no-slash", "owner/name"),
        ("repo_id", "a/b c", "owner/name"),
        ("repo_id", 3, "owner/name"),
        ("architecture", "llama", "'bert' or 'gemma3_text' or 'qwen3' or 'xlm-roberta'"),
        ("architecture", ["bert"], "'bert' or"),
        ("dimension", "384", "a whole number of 1 or more"),
        ("dimension", True, "a whole number of 1 or more"),
        ("min_dimension", 0, "a whole number of 1 or more"),
        ("max_tokens", 2.5, "a whole number of 2 or more"),
        ("max_tokens", 1, "a whole number of 2 or more"),
        ("pooling", "max", "'last' or 'mean' or 'cls'"),
        ("parameters", -4, "a whole number of 1 or more"),
        ("bits", 0, "a number of bits a parameter"),
        ("bits", math.nan, "a number of bits a parameter"),
        ("bits", "4", "a number of bits a parameter"),
        ("licence", None, "a text"),
        ("prompts", "query", "a table of texts"),
        ("prompts", {"query": 3}, "a table of texts"),
        ("revision", 3, "a branch, tag or commit"),
        ("revision", "", "a branch, tag or commit"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can_be(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f"^The row of the model .* is not valid. {field} is .*Set it to") as caught:
        row(**{field: value})
    assert allowed in str(caught.value)


def test_every_problem_of_a_row_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match="The row of the model 'mine' is not valid") as caught:
        row(pooling="max", bits=0, revision=3)
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["pooling", "bits", "revision"]


def test_a_smallest_width_above_the_full_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_dimension is 512, which is more than the dimension, 384"):
        row(min_dimension=512)


def test_what_is_no_row_is_refused_by_its_type() -> None:
    with pytest.raises(ConfigError, match="register_model takes a KnownModel; got dict"):
        register_model(ROW)  # type: ignore[arg-type]


def test_a_row_of_no_repository_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'mine' has no repo_id.*Set it to owner/name.*A folder needs no row"):
        register_model(row(repo_id=None))


@pytest.mark.parametrize("replace", [False, True])
def test_the_model_inside_the_package_cannot_be_replaced(replace: bool) -> None:
    with pytest.raises(ConfigError, match="'builtin' is inside this package, and cannot be replaced"):
        register_model(row(name="builtin"), replace=replace)


def test_a_repository_stands_for_one_row() -> None:
    with pytest.raises(ConfigError, match=r"that of the model 'bge-small-en-v1\.5' already"):
        register_model(row(repo_id="BAAI/bge-small-en-v1.5"), replace=True)


def test_a_row_is_replaced_only_when_that_is_asked(table: dict[str, KnownModel]) -> None:
    register_model(row())
    with pytest.raises(ConfigError, match="There is a model 'mine' already"):
        register_model(row(max_tokens=128))
    register_model(row(max_tokens=128), replace=True)

    assert table["mine"].max_tokens == 128
    assert find_known("me/mine") is table["mine"]


@pytest.mark.parametrize("own", KNOWN_MODELS.values(), ids=list(KNOWN_MODELS))
def test_the_tables_own_rows_pass_the_same_checks(own: KnownModel, table: dict[str, KnownModel]) -> None:
    values = {each.name: getattr(own, each.name) for each in fields(own)}
    assert KnownModel(**values) == own
    assert set(values) == set(known.RULES)
    if own.repo_id is not None:
        del table[own.name]
        register_model(own)
        assert find_known(own.repo_id) == own

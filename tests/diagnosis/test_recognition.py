"""Which model a folder holds is known by what it is, not by what it is called."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from small import CHECKPOINTS

from chroma_mlx.checkpoint import Checkpoint, open_checkpoint
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
from chroma_mlx.diagnosis.recognition import recognise
from chroma_mlx.diagnosis.references import FAMILIES, REFERENCES, Family
from chroma_mlx.errors import ConfigError
from chroma_mlx.models.known import KNOWN_MODELS

BY_NAME = {family.name: (source, family) for source, family in FAMILIES.items()}


def shaped(family: Family, *, pooling: str | None, vocabulary: int | None = None) -> Checkpoint:
    """A small checkpoint that says of itself what one of `family` does."""
    small = open_checkpoint(CHECKPOINTS / ("bert-mean" if family.architecture == "bert" else "official-float32"))
    rows = vocabulary or family.vocabulary
    tensors = {
        name: dataclasses.replace(info, shape=(rows, *info.shape[1:])) if "embed" in name else info
        for name, info in small.tensors.items()
    }
    config = {
        **small.config,
        "model_type": family.architecture,
        "hidden_size": family.hidden_size,
        "num_hidden_layers": family.layers,
    }
    return dataclasses.replace(
        small, config=config, tensors=tensors, declared=dataclasses.replace(small.declared, pooling=pooling)
    )


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("declared", [True, False])
def test_a_folder_is_known_by_its_shape(name: str, declared: bool) -> None:
    source, family = BY_NAME[name]
    found = recognise(shaped(family, pooling=family.pooling if declared else None), "/some/folder")
    assert (found.source, found.how, found.candidates) == (source, "shape", ())


def test_a_chat_model_of_the_same_shape_is_told_by_its_vocabulary() -> None:
    _, family = BY_NAME["qwen3-0.6b"]
    assert recognise(shaped(family, pooling=None, vocabulary=151_936), "/some/folder").source is None


def test_a_model_of_the_same_shape_with_another_pooling_is_another() -> None:
    _, family = BY_NAME["bge-small-en-v1.5"]
    assert recognise(shaped(family, pooling="mean"), "/all-MiniLM-L12-v2").source is None


def test_where_two_fit_neither_is_taken_and_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source, family = BY_NAME["qwen3-4b"]
    monkeypatch.setitem(FAMILIES, "another", family)

    found = recognise(shaped(family, pooling="last"), "/some/folder")

    assert (found.source, found.candidates) == (None, (source, "another"))


def test_the_built_in_model_is_known_by_its_weights_wherever_it_lies(tmp_path: Path) -> None:
    folder = shutil.copytree(BUILTIN_FOLDER, tmp_path / "carried over")
    found = recognise(open_checkpoint(folder), str(folder))
    assert (found.source, found.how) == (KNOWN_MODELS["builtin"].source, "weights")


def test_what_is_given_wins_over_the_shape_and_the_name() -> None:
    checkpoint = open_checkpoint(BUILTIN_FOLDER)
    given = recognise(checkpoint, "builtin", "all-minilm-l6-v2")
    assert (given.source, given.how) == (KNOWN_MODELS["all-minilm-l6-v2"].source, "given")
    assert recognise(checkpoint, "builtin", "none").source is None


def test_a_name_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--as is 'nope', which is not in the table.*'none', or one of builtin"):
        recognise(open_checkpoint(BUILTIN_FOLDER), "builtin", "nope")


def test_the_families_agree_with_the_table_of_models() -> None:
    assert set(REFERENCES) <= set(FAMILIES) == {row.source for row in KNOWN_MODELS.values()}
    for row in KNOWN_MODELS.values():
        family = FAMILIES[row.source]
        assert row.name.startswith(family.name)
        assert (row.architecture, row.dimension, row.pooling) == (
            family.architecture,
            family.hidden_size,
            family.pooling,
        )
        assert family.vocabulary * family.hidden_size < row.parameters

"""Where a checkpoint is not what the table says of it, each difference is reported; what the files say holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_cache import put_into_cache
from small import CHECKPOINTS, CONFIG, make_tensors, write_checkpoint

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
from chroma_mlx.cli import main
from chroma_mlx.engine.fingerprint import describe_quantization
from chroma_mlx.engine.model import unload_models
from chroma_mlx.engine.stated import read_stated
from chroma_mlx.errors import CheckpointDiffers
from chroma_mlx.models.known import KNOWN_MODELS, KnownModel

FILES: dict[str, object] = {
    "modules.json": [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ],
    "1_Pooling/config.json": {"pooling_mode_lasttoken": True},
    "sentence_bert_config.json": {"max_seq_length": 256},
    "config_sentence_transformers.json": {"prompts": {"query": "Q: ", "document": "", "STS": "similar: "}},
}


def row(**changed: Any) -> KnownModel:
    """The row that says of the checkpoint of FILES what it says itself, but for what is `changed`."""
    values: dict[str, Any] = {"architecture": "qwen3", "dimension": 32, "min_dimension": 8, "max_tokens": 256}
    values |= {"name": "mine", "repo_id": "me/mine", "pooling": "last", "parameters": 100_000, "bits": 32}
    values |= {"licence": "MIT", "summary": "", "source": "", "prompts": {"query": "Q: ", "document": ""}}
    return KnownModel(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({"min_dimension": 10}, {}),  # no file states it
        ({"max_tokens": 999}, {"max_tokens": (999, 256)}),
        ({"max_tokens": 128}, {"max_tokens": (128, 256)}),
        ({"pooling": "mean"}, {"pooling": ("mean", "last")}),
        ({"architecture": "bert"}, {"architecture": ("bert", "qwen3")}),
        ({"dimension": 64}, {"dimension": (64, 32)}),
        ({"prompts": None}, {}),
        ({"prompts": {"query": "query: ", "document": ""}}, {"prompts.query": ("query: ", "Q: ")}),
        ({"prompts": {"query": "Q: ", "passage": "P: "}}, {}),  # the files have none of that name
    ],
    ids=str,
)
def test_each_figure_that_both_have_is_compared(
    tmp_path: Path, changed: dict[str, Any], expected: dict[str, tuple[Any, Any]]
) -> None:
    stated = read_stated(open_checkpoint(write_checkpoint(tmp_path, files=FILES)))
    assert stated.differences(row(**changed)) == expected


@pytest.mark.parametrize(("most", "expected"), [(512, {}), (513, {"max_tokens": (513, 512)}), (100, {})])
def test_positions_for_fewer_tokens_than_the_table_has_are_a_difference(
    tmp_path: Path, most: int, expected: dict[str, tuple[Any, Any]]
) -> None:
    """Qwen3-Embedding has positions for more than its makers recommend."""
    stated = read_stated(open_checkpoint(write_checkpoint(tmp_path)))
    assert CONFIG["max_position_embeddings"] == 512
    assert stated.differences(row(max_tokens=most)) == expected


def test_what_the_files_leave_open_is_no_difference() -> None:
    bert = read_stated(open_checkpoint(CHECKPOINTS / "bert-mean"))
    assert bert.prompts is None
    assert not {"prompts.query", "pooling"} & set(bert.differences(row(pooling="mean")))


def test_the_built_in_model_is_what_the_table_says() -> None:
    stated = read_stated(open_checkpoint(BUILTIN_FOLDER))
    assert stated.differences(KNOWN_MODELS["builtin"]) == {}


def test_position_ids_are_no_weights_whose_precision_counts(tmp_path: Path) -> None:
    tensors = {**make_tensors(), "position_ids": np.arange(512, dtype=np.int64)}
    assert describe_quantization(open_checkpoint(write_checkpoint(tmp_path, tensors=tensors))) == "float32"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the checkpoint of FILES, of which the table says what is wrong."""
    wrong = row(max_tokens=999, prompts={"query": "query: ", "document": ""})
    monkeypatch.setitem(KNOWN_MODELS, "mine", wrong)
    monkeypatch.setenv("CHROMA_MLX_CACHE_DIR", str(tmp_path / "hub"))
    put_into_cache(tmp_path / "hub", "me/mine", write_checkpoint(tmp_path / "checkpoint", files=FILES))
    unload_models()
    return tmp_path / "hub"


def test_loading_reports_every_difference(cached: Path) -> None:
    message = r"max_tokens is 256, not 999, prompts\.query is 'Q: ', not 'query: '. What the checkpoint says holds"
    with pytest.warns(CheckpointDiffers, match=message):
        MLXEmbeddingFunction("mine", cache_dir=cached).load()
    unload_models()


def test_models_info_shows_what_the_files_state_and_marks_the_differences(
    cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "info", "mine"]) == 0
    printed = capsys.readouterr().out
    declared = printed.partition("declared by its files:")[2].partition("as configured:")[0]
    assert [line.split()[0] for line in declared.strip().splitlines()] == [
        *("architecture", "dimension", "max_tokens", "limit", "pooling", "prompts")
    ]
    differences = printed.partition("the files differ from the table, and hold:\n")[2].splitlines()
    assert [" ".join(line.split()) for line in differences] == [
        "max_tokens 256, not 999",
        "prompts.query 'Q: ', not 'query: '",
    ]

    assert main(["models", "info", "mine", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"]["max_tokens"] == {"table": 999, "files": 256}
    assert (found["declared"]["pooling"], found["declared"]["prompts"]["query"]) == ("last", "Q: ")


def test_models_info_of_a_model_that_is_not_here_says_so(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "qwen3-4b-4bit"]) == 0
    printed = capsys.readouterr().out
    assert "as configured: not on this disk; `chroma-mlx models download qwen3-4b-4bit` fetches it" in printed
    assert "None" not in printed


def test_models_info_of_an_unknown_repository_is_an_error(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "owner/none"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "'owner/none' is neither in the table nor in the cache" in err

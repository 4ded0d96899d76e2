"""`verify` tells a right model from a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small import make_tensors, write_checkpoint

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.cli import main
from chroma_mlx.diagnosis.verify import DOCUMENTS, QUERIES, REFERENCES, verify_model
from chroma_mlx.models.known import KNOWN_MODELS


def test_the_model_of_this_package_agrees_with_its_reference() -> None:
    result = verify_model(EmbeddingConfig(model_name="builtin"))

    assert result.right
    assert result.expected is not None
    worst = np.abs(np.array(result.similarities) - np.array(result.expected)).max()
    assert worst < 1e-3, f"off by {worst:.1e}"


def test_settings_of_the_configuration_do_not_reach_the_example() -> None:
    config = EmbeddingConfig(model_name="builtin", dimension=64, pooling="cls", query_instruction="find: ")
    assert verify_model(config) == verify_model(EmbeddingConfig(model_name="builtin"))


def test_a_model_of_random_weights_is_wrong(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tensors=make_tensors())

    result = verify_model(EmbeddingConfig(model_name=str(folder)))

    assert not result.right
    assert "nearer to its own answer than to the other" in result.problems[0]
    assert (result.expected, result.reference) == (None, None)


def test_similarities_beyond_the_tolerance_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = MLXEmbeddingFunction.encode

    def pooled_wrongly(self: MLXEmbeddingFunction, texts, kind="document"):  # type: ignore[no-untyped-def]
        return encode(MLXEmbeddingFunction("builtin", pooling="last"), texts, kind)

    monkeypatch.setattr(MLXEmbeddingFunction, "encode", pooled_wrongly)
    result = verify_model(EmbeddingConfig(model_name="builtin"))
    assert not result.right
    assert "off, and 0.03 is what 8-bit may change" in result.problems[0]


def test_every_reference_is_of_a_model_of_the_table() -> None:
    assert set(REFERENCES) <= {row.source for row in KNOWN_MODELS.values()}
    assert (len(QUERIES), len(DOCUMENTS)) == (2, 2)


def test_the_command_prints_both_similarities_and_says_whether_it_is_right(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["verify", "builtin"]) == 0
    printed = capsys.readouterr().out
    assert "0.8669  (published: 0.8669)" in printed
    assert "Right: the vectors agree with the reference, this package, within 0.03." in printed

    folder = write_checkpoint(tmp_path / "model", tensors=make_tensors())
    assert main(["verify", str(folder), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["right"], len(result["similarities"])) == (False, 2)

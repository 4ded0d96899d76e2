"""`verify` tells a right model from a wrong one, and both from one that is only plausible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import make_tensors, write_checkpoint

from chroma_mlx import EmbeddingConfig
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
from chroma_mlx.cli import main
from chroma_mlx.diagnosis.recognition import Recognition
from chroma_mlx.diagnosis.references import REFERENCES
from chroma_mlx.diagnosis.verify import neighbour_problems, pooling_problems, similarity_problems, verify_model
from chroma_mlx.models.known import KNOWN_MODELS

POOLED_BY_LAST = {"pooling_mode_lasttoken": True, "word_embedding_dimension": 256}


def carried_over(folder: Path, **files: dict[str, Any]) -> Path:
    """The built-in model's folder at another path, with other JSON files in it."""
    shutil.copytree(BUILTIN_FOLDER, folder)
    for name, content in files.items():
        (folder / name / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_model_of_this_package_agrees_with_its_reference() -> None:
    result = verify_model(EmbeddingConfig(model_name="builtin"))

    assert (result.verdict, result.published, result.by) == ("right", False, "name")
    assert result.expected is not None
    worst = np.abs(np.array(result.similarities) - np.array(result.expected)).max()
    assert worst < 1e-3, f"off by {worst:.1e}"


def test_a_folder_is_held_to_the_reference_of_the_model_it_holds(tmp_path: Path) -> None:
    result = verify_model(EmbeddingConfig(model_name=str(carried_over(tmp_path / "model"))))

    assert (result.verdict, result.recognised, result.by) == ("right", "builtin", "weights")
    assert result.reference == "this package, made with its own weights"


def test_settings_of_the_configuration_do_not_reach_the_example() -> None:
    config = EmbeddingConfig(model_name="builtin", dimension=64, pooling="cls", query_instruction="find: ")
    assert verify_model(config) == verify_model(EmbeddingConfig(model_name="builtin"))


def test_a_model_of_random_weights_is_wrong(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tensors=make_tensors())

    result = verify_model(EmbeddingConfig(model_name=str(folder)))

    assert result.verdict == "wrong"
    assert "nearer to its own answer than to the other" in result.problems[0]
    assert (result.expected, result.reference, result.recognised) == (None, None, None)


def test_a_model_without_a_reference_is_plausible_and_never_right(tmp_path: Path) -> None:
    result = verify_model(EmbeddingConfig(model_name=str(carried_over(tmp_path / "model"))), "none")

    assert (result.verdict, result.to_dict()["verdict"], result.problems) == ("plausible", "plausible", ())
    assert result.held[0] == "each question is nearer to its own answer"
    assert result.not_held == ("any known similarities: it is no model of the table, as --as has it",)


def test_a_folder_that_pools_in_another_way_is_wrong(tmp_path: Path) -> None:
    folder = carried_over(tmp_path / "model", **{"1_Pooling": POOLED_BY_LAST})

    result = verify_model(EmbeddingConfig(model_name=str(folder)))

    assert result.verdict == "wrong"
    assert result.problems[0].startswith("it is pooled by 'last', and builtin is by 'mean'")
    assert "off, and weights of 8 bits may change one by 0.02" in result.problems[1]


def test_a_model_of_a_known_shape_that_differs_may_be_another(tmp_path: Path) -> None:
    folder = carried_over(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 10.0}), encoding="utf-8")

    result = verify_model(EmbeddingConfig(model_name=str(folder)))

    assert (result.verdict, result.by) == ("wrong", "shape")
    assert result.problems[-1] == ("it was taken for builtin by its shape: if it is another model, pass `--as none`")


def test_a_folder_without_its_pooling_is_not_taken_for_right() -> None:
    bge = Recognition(KNOWN_MODELS["bge-small-en-v1.5"].source, "shape")
    [problem] = pooling_problems(bge, "mean")
    assert "it is pooled by 'mean', and bge-small-en-v1.5 is by 'cls': its folder lacks 1_Pooling" in problem
    assert pooling_problems(bge, "cls") == []


@pytest.mark.parametrize("off", [0.0211, float("nan")])
def test_similarities_beyond_the_tolerance_are_wrong(off: float) -> None:
    reference = REFERENCES[KNOWN_MODELS["embeddinggemma-300m-8bit"].source]
    found = np.array(reference.similarities, dtype=np.float32)
    assert similarity_problems(found, reference, 0.02, 8) == []
    found[0, 2] += off
    [problem] = similarity_problems(found, reference, 0.02, 8)
    assert "off, and weights of 8 bits may change one by 0.02" in problem


def test_a_vector_that_moves_with_its_neighbours_is_wrong() -> None:
    one, other = np.array([1.0, 0.0], dtype=np.float32), np.array([0.5, 0.75**0.5], dtype=np.float32)
    assert neighbour_problems(one, one) == []
    assert neighbour_problems(one, other) == ["a text has a cosine of 0.500 with itself among others in a batch"]


def test_every_reference_has_a_figure_for_every_pair() -> None:
    for source, reference in REFERENCES.items():
        shape = (len(reference.example.queries), len(reference.example.documents))
        assert np.array(reference.similarities).shape == shape, source


def test_only_what_the_makers_say_is_called_published() -> None:
    published = {
        row.name for row in KNOWN_MODELS.values() if row.source in REFERENCES and REFERENCES[row.source].published
    }
    assert published == {name for name in KNOWN_MODELS if name.startswith(("qwen3", "embeddinggemma"))}


def test_the_command_prints_both_similarities_and_says_whether_it_is_right(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["verify", "builtin"]) == 0
    printed = capsys.readouterr().out
    assert "0.8669  (stored: 0.8669)" in printed
    assert "Right. Held: the stored similarities (this package, made with its own weights), within 0.02;" in printed
    assert "published" not in printed

    folder = write_checkpoint(tmp_path / "random", tensors=make_tensors())
    assert main(["verify", str(folder), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["verdict"], len(result["similarities"])) == ("wrong", 2)


def test_the_command_says_what_it_took_a_folder_for_and_what_it_could_not_hold(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = carried_over(tmp_path / "model")

    assert main(["verify", str(folder)]) == 0
    assert f"Model: {folder}, builtin by its weights\n" in capsys.readouterr().out

    assert main(["verify", str(folder), "--as", "none"]) == 0
    printed = capsys.readouterr().out
    assert "Plausible. Held: each question is nearer to its own answer; " in printed
    assert "Not held: any known similarities: " in printed
    assert "Right" not in printed

    assert main(["verify", str(folder), "--as", "all-minilm-l6-v2"]) == 1
    assert "Wrong: a similarity is 0.1025 off" in capsys.readouterr().out


def test_a_model_of_another_shape_than_it_is_said_to_be_is_wrong() -> None:
    result = verify_model(EmbeddingConfig(model_name="builtin"), "multilingual-e5-small")

    assert result.verdict == "wrong"
    assert result.problems[0].startswith("its architecture is 'qwen3', and that of multilingual-e5-small 'bert'")
    assert any(problem.startswith("its hidden size is 256") for problem in result.problems)


def test_what_failed_is_not_said_to_hold() -> None:
    result = verify_model(EmbeddingConfig(model_name="builtin"), "all-minilm-l6-v2")

    assert result.verdict == "wrong"
    assert result.held == ("a text has the same vector alone and in a batch",)

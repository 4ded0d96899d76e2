"""The model in the package: as good as its original, at every width, and small enough to ship."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

DATA = Path(__file__).parent.parent / "data" / "builtin"
TEXTS: list[str] = json.loads((DATA / "texts.json").read_text(encoding="utf-8"))
REFERENCE = np.load(DATA / "reference.npz")["vectors"]


@pytest.mark.parametrize("kind", ["document", "query"])
def test_eight_bits_keep_the_vectors_of_the_original(kind: str) -> None:
    cosines = (MLXEmbeddingFunction("builtin").encode(TEXTS, kind) * REFERENCE).sum(axis=1)  # type: ignore[arg-type]
    assert cosines.min() > 0.9998, f"text {cosines.argmin()} has a cosine of {cosines.min():.6f}"


@pytest.mark.parametrize("dimension", [128, 64])
def test_a_cut_width_is_the_reference_cut_and_scaled(dimension: int) -> None:
    expected = REFERENCE[:, :dimension] / np.linalg.norm(REFERENCE[:, :dimension], axis=1, keepdims=True)
    cosines = (MLXEmbeddingFunction("builtin", dimension=dimension).encode(TEXTS) * expected).sum(axis=1)
    assert cosines.min() > 0.9997, f"text {cosines.argmin()} has a cosine of {cosines.min():.6f}"


def test_the_files_fit_a_wheel_of_ten_megabytes() -> None:
    size = sum(file.stat().st_size for file in BUILTIN_FOLDER.rglob("*") if file.is_file())
    assert size < 9_500_000, f"{size:,} bytes"


def test_every_source_names_its_licence() -> None:
    sources = json.loads((BUILTIN_FOLDER.parent / "sources.json").read_text(encoding="utf-8"))
    assert len(sources) > 100
    assert all(source["licence"] for source in sources.values())

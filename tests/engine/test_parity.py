"""Every layout gives the vectors of sentence-transformers; make.py and encoders.py in tests/checkpoints made both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small import CHECKPOINTS, read_texts

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.errors import TextTooLong

Vectors = npt.NDArray[np.float32]

DECODERS: dict[str, dict[str, Any]] = json.loads((CHECKPOINTS / "manifest.json").read_text(encoding="utf-8"))
ENCODERS: dict[str, dict[str, Any]] = json.loads((CHECKPOINTS / "encoders.json").read_text(encoding="utf-8"))
MANIFEST = {**DECODERS, **ENCODERS}
WITHOUT_PROMPTS = ("bert-mean", "bert-mlx-8bit", "xlm-roberta")
# Measured: 2e-6 at most over all of them. A coordinate is 0.1 to 0.2 in size.
LARGEST_DIFFERENCE = 1e-5


def reference(name: str, kind: str, width: int | None) -> Vectors:
    with np.load(CHECKPOINTS / f"{name}.npz") as vectors:
        found: Vectors = vectors[kind if width is None else f"{kind}@{width}"]
        return found


def embed(name: str, texts: list[str], kind: str, width: int | None = None) -> Vectors:
    function = MLXEmbeddingFunction(str(CHECKPOINTS / name), dimension=width, device="cpu")
    return np.stack(function(texts) if kind == "document" else function.embed_query(texts))


def embed_in_mode(mode: str, name: str, kind: str, width: int | None) -> Vectors:
    texts = read_texts()
    if mode == "single":
        return np.concatenate([embed(name, [text], kind, width) for text in texts])
    if mode == "reversed":
        return embed(name, texts[::-1], kind, width)[::-1]
    return embed(name, texts, kind, width)


def check(name: str, what: str, got: Vectors, want: Vectors) -> None:
    assert got.dtype == np.float32, f"{name}, {what}: {got.dtype}"
    assert got.shape == want.shape, f"{name}, {what}: {got.shape}, not {want.shape}"
    cosines = (got.astype(np.float64) * want).sum(axis=1)
    row = int(cosines.argmin())
    threshold = MANIFEST[name]["threshold"]
    assert cosines[row] >= threshold, f"{name}, {what}: text {row} has the cosine {cosines[row]:.6f}"
    worst = float(np.abs(got - want).max())
    assert worst < LARGEST_DIFFERENCE, f"{name}, {what}: differs by {worst:.1e}"


@pytest.mark.parametrize("mode", ["batch", "single", "reversed"])
@pytest.mark.parametrize("name", MANIFEST)
def test_documents_and_queries_are_those_of_the_reference(name: str, mode: str) -> None:
    for kind in ("document", "query"):
        got = embed_in_mode(mode, name, kind, None)
        check(name, f"{kind}, {mode}", got, reference(name, kind, None))


@pytest.mark.parametrize("name", MANIFEST)
def test_truncated_dimensions_are_those_of_the_reference(name: str) -> None:
    for kind in ("document", "query"):
        for width in MANIFEST[name]["widths"]:
            check(name, f"{kind} at {width}", embed(name, read_texts(), kind, width), reference(name, kind, width))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_maximum_length_of_an_encoder_is_that_of_the_reference(name: str) -> None:
    limit = ENCODERS[name]["max_tokens"]
    function = MLXEmbeddingFunction(str(CHECKPOINTS / name), on_long_text="error", device="cpu")
    assert np.isfinite(function(["a"])).all()
    with pytest.raises(TextTooLong, match=f"Text 0 has [0-9]+ tokens, but the limit is {limit},"):
        function(["a 1" * limit])


@pytest.mark.parametrize("name", DECODERS)
def test_the_maximum_length_is_that_of_the_reference(name: str) -> None:
    limit = MANIFEST[name]["max_tokens"]
    function = MLXEmbeddingFunction(
        str(CHECKPOINTS / name), document_instruction="", on_long_text="error", device="cpu"
    )
    fits = "a\n" * ((limit - 1) // 2)  # a token a character, and the end token
    assert np.isfinite(function([fits])).all()
    with pytest.raises(TextTooLong, match=f"Text 0 has [0-9]+ tokens, but the limit is {limit},"):
        function([fits + "a\n"])


def test_the_reference_tells_texts_kinds_and_checkpoints_apart() -> None:
    """Else parity would hold for a wrong engine too."""
    for name in MANIFEST:
        documents, queries = reference(name, "document", None), reference(name, "query", None)
        # cls sees the first token alone.
        apart = len(np.unique(documents.round(4), axis=0))
        assert apart >= (12 if name == "cls" else 19), f"{name}: {apart} different vectors of {len(documents)}"
        if name not in ("cls", "mean-without-prompt", *WITHOUT_PROMPTS):
            middle = float(np.median((documents * queries).sum(axis=1)))
            assert middle < 0.985, f"{name}: half the queries have the cosine {middle:.4f} to their documents"


@pytest.mark.parametrize(
    ("name", "setting", "kind"),
    [
        ("official-float32", {"pooling": "mean"}, "document"),
        ("official-float32", {"pooling": "cls"}, "document"),
        ("official-float32", {"query_instruction": ""}, "query"),
        ("mean-without-prompt", {"pooling": "last"}, "document"),
        ("resaved", {"document_instruction": ""}, "document"),
        ("short-limit", {"max_tokens": 25}, "document"),
    ],
)
def test_another_setting_than_the_checkpoints_own_gives_other_vectors(
    name: str, setting: dict[str, Any], kind: str
) -> None:
    function = MLXEmbeddingFunction(str(CHECKPOINTS / name), device="cpu", **setting)
    texts = read_texts()
    got = np.stack(function(texts) if kind == "document" else function.embed_query(texts))
    cosine = float((got * reference(name, kind, None)).sum(axis=1).min())
    assert cosine < 0.99, f"{name} under {setting}: every cosine is {cosine:.4f} or more"


@pytest.mark.parametrize(
    ("kind", "mistake", "cosine"),
    [("document", {"pooling": "mean"}, 0.51), ("query", {"query_instruction": ""}, 0.33)],
    ids=["mean pooling", "no instruction"],
)
def test_a_mistake_costs_what_the_readme_says(kind: str, mistake: dict[str, Any], cosine: float) -> None:
    folder = CHECKPOINTS / "official-float32"
    expected = np.load(f"{folder}.npz")[kind]
    wrong = MLXEmbeddingFunction(str(folder), **mistake).encode(read_texts(), kind)  # type: ignore[arg-type]  # a kind
    mean = float((wrong * expected).sum(axis=1).mean())
    assert abs(mean - cosine) < 0.02, f"a mean cosine of {mean:.3f}"
    assert f"{cosine}" in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

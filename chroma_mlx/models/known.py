"""The table of known models: data only, a source for every figure.

What a checkpoint declares wins over this table; the table fills what conversions leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

QWEN3_CARD: Final = "https://huggingface.co/Qwen/Qwen3-Embedding-{size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One row: what a short name stands for.

    `repo_id` is None for the model inside this package. `dimension` is the full width of a vector;
    `min_dimension` the smallest Matryoshka width its makers state. `max_tokens` is the context its makers
    state, in tokens, the end token included. `source` says where the figures come from.
    """

    name: str
    repo_id: str | None
    dimension: int
    min_dimension: int
    max_tokens: int
    licence: str
    summary: str
    source: str


def _qwen3(size: str, dimension: int, suffix: str, repo_id: str, summary: str) -> KnownModel:
    return KnownModel(
        name=f"qwen3-{size.lower()}{suffix}",
        repo_id=repo_id,
        dimension=dimension,
        min_dimension=32,
        max_tokens=32_768,
        licence="Apache-2.0",
        summary=f"Qwen3-Embedding {size}, {summary}",
        source=QWEN3_CARD.format(size=size),
    )


def _gemma(suffix: str, summary: str) -> KnownModel:
    return KnownModel(
        name=f"embeddinggemma-300m{suffix}",
        repo_id=f"mlx-community/embeddinggemma-300m{suffix}",
        dimension=768,
        min_dimension=128,
        max_tokens=2_048,
        licence="Gemma",
        summary=f"EmbeddingGemma 300M, {summary}",
        source="https://huggingface.co/google/embeddinggemma-300m",
    )


_ROWS: Final = (
    KnownModel(
        name="builtin",
        repo_id=None,
        dimension=256,
        min_dimension=64,
        max_tokens=256,
        licence="Apache-2.0",
        summary="small English model inside this package: first steps, tests, CI",
        source="docs/builtin-model.md",
    ),
    _qwen3("0.6B", 1024, "-4bit", "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", "4-bit (the default)"),
    _qwen3("0.6B", 1024, "-8bit", "mlx-community/Qwen3-Embedding-0.6B-8bit", "8-bit"),
    _qwen3("0.6B", 1024, "-bf16", "Qwen/Qwen3-Embedding-0.6B", "official bfloat16"),
    _qwen3("4B", 2560, "-4bit", "mlx-community/Qwen3-Embedding-4B-4bit-DWQ", "4-bit"),
    _qwen3("4B", 2560, "-bf16", "Qwen/Qwen3-Embedding-4B", "official bfloat16"),
    _qwen3("8B", 4096, "-4bit", "mlx-community/Qwen3-Embedding-8B-4bit-DWQ", "4-bit"),
    _qwen3("8B", 4096, "-bf16", "Qwen/Qwen3-Embedding-8B", "official bfloat16"),
    _gemma("-4bit", "4-bit"),
    _gemma("-8bit", "8-bit"),
    _gemma("-bf16", "bfloat16"),
)

DEFAULT_MODEL: Final = "qwen3-0.6b-4bit"
KNOWN_MODELS: Final[dict[str, KnownModel]] = {row.name: row for row in _ROWS}
_BY_REPO: Final[dict[str, KnownModel]] = {row.repo_id: row for row in _ROWS if row.repo_id}


def find_known(model_name: str) -> KnownModel | None:
    """The row of a short name or of a Hub repository id, or None."""
    return KNOWN_MODELS.get(model_name) or _BY_REPO.get(model_name)

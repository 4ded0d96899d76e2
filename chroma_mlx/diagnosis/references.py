"""Texts whose similarities are known, by model, and what tells one model's checkpoint from another's. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..models.known import HUB


@dataclass(frozen=True, slots=True)
class Example:
    """Questions, and documents that answer them, or do not."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Similarities of an example's queries (rows) and documents, in full precision.

    `published` by the model's makers, else stored here; `source` says where, or from what.
    """

    example: Example
    similarities: tuple[tuple[float, ...], ...]
    source: str
    published: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All rows of the table that are one model in several precisions, by what its files say whatever they are called.

    `vocabulary` is the number of rows of the table of token embeddings.
    """

    name: str
    architecture: str
    hidden_size: int
    layers: int
    vocabulary: int
    pooling: str


CHINA_AND_GRAVITY: Final = Example(
    ("What is the capital of China?", "Explain gravity"),
    (
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
        "responsible for the movement of planets around the sun.",
    ),
)
RED_PLANET: Final = Example(
    ("Which planet is known as the Red Planet?",),
    (
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ),
)


def _qwen3(size: str, first: tuple[float, float], second: tuple[float, float]) -> Reference:
    page = f"{HUB}Qwen/Qwen3-Embedding-{size}"
    return Reference(example=CHINA_AND_GRAVITY, similarities=(first, second), source=page, published=True)


# By the `source` of their rows in the table. For bge and multilingual-e5 none are known here.
REFERENCES: Final = {
    f"{HUB}Qwen/Qwen3-Embedding-0.6B": _qwen3("0.6B", (0.7646, 0.1414), (0.1355, 0.6000)),
    f"{HUB}Qwen/Qwen3-Embedding-4B": _qwen3("4B", (0.7534, 0.1147), (0.0320, 0.6258)),
    f"{HUB}Qwen/Qwen3-Embedding-8B": _qwen3("8B", (0.7493, 0.0751), (0.0880, 0.6318)),
    f"{HUB}google/embeddinggemma-300m": Reference(
        example=RED_PLANET,
        similarities=((0.3011, 0.6359, 0.4930, 0.4889),),
        source=f"{HUB}google/embeddinggemma-300m",
        published=True,
    ),
    "docs/builtin-model.md": Reference(
        example=CHINA_AND_GRAVITY,
        similarities=((0.8669, 0.0838), (0.0767, 0.6307)),
        source="this package, made with its own weights",
        published=False,
    ),
    f"{HUB}sentence-transformers/all-MiniLM-L6-v2": Reference(
        example=CHINA_AND_GRAVITY,
        similarities=((0.8655, 0.0578), (0.0773, 0.7332)),
        source="sentence-transformers 6.2 in float32",
        published=False,
    ),
}

# From each one's config.json; with the table's parameters, from which the vocabularies follow, they agree.
# (`_name_or_path` is no help: all-MiniLM-L6-v2's names the model that it was tuned from.)
FAMILIES: Final = {
    f"{HUB}Qwen/Qwen3-Embedding-0.6B": Family(
        name="qwen3-0.6b", architecture="qwen3", hidden_size=1_024, layers=28, vocabulary=151_669, pooling="last"
    ),
    f"{HUB}Qwen/Qwen3-Embedding-4B": Family(
        name="qwen3-4b", architecture="qwen3", hidden_size=2_560, layers=36, vocabulary=151_665, pooling="last"
    ),
    f"{HUB}Qwen/Qwen3-Embedding-8B": Family(
        name="qwen3-8b", architecture="qwen3", hidden_size=4_096, layers=36, vocabulary=151_665, pooling="last"
    ),
    f"{HUB}google/embeddinggemma-300m": Family(
        name="embeddinggemma-300m",
        architecture="gemma3_text",
        hidden_size=768,
        layers=24,
        vocabulary=262_144,
        pooling="mean",
    ),
    "docs/builtin-model.md": Family(
        name="builtin", architecture="qwen3", hidden_size=256, layers=4, vocabulary=16_384, pooling="mean"
    ),
    f"{HUB}sentence-transformers/all-MiniLM-L6-v2": Family(
        name="all-minilm-l6-v2", architecture="bert", hidden_size=384, layers=6, vocabulary=30_522, pooling="mean"
    ),
    f"{HUB}BAAI/bge-small-en-v1.5": Family(
        name="bge-small-en-v1.5", architecture="bert", hidden_size=384, layers=12, vocabulary=30_522, pooling="cls"
    ),
    f"{HUB}BAAI/bge-base-en-v1.5": Family(
        name="bge-base-en-v1.5", architecture="bert", hidden_size=768, layers=12, vocabulary=30_522, pooling="cls"
    ),
    f"{HUB}intfloat/multilingual-e5-small": Family(
        name="multilingual-e5-small",
        architecture="bert",
        hidden_size=384,
        layers=12,
        vocabulary=250_037,
        pooling="mean",
    ),
}

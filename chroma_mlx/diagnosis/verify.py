"""Embeds texts whose similarities are known, and compares: what tells a right installation from a plausible one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from ..config import EmbeddingConfig
from ..functions import MLXEmbeddingFunction
from ..models.known import HUB, find_known

# The example of Qwen3-Embedding's own page.
QUERIES: Final = ("What is the capital of China?", "Explain gravity")
DOCUMENTS: Final = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
    "responsible for the movement of planets around the sun.",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """Similarities of QUERIES (rows) and DOCUMENTS, in full precision, and where they were published."""

    similarities: tuple[tuple[float, float], tuple[float, float]]
    source: str


# By the makers' repository. The others have published none, and are held to what any right model does.
REFERENCES: Final = {
    f"{HUB}Qwen/Qwen3-Embedding-0.6B": Reference(((0.7646, 0.1414), (0.1355, 0.6000)), "the model's page at the Hub"),
    "docs/builtin-model.md": Reference(((0.8669, 0.0838), (0.0767, 0.6307)), "this package"),
    f"{HUB}sentence-transformers/all-MiniLM-L6-v2": Reference(
        ((0.8655, 0.0578), (0.0773, 0.7332)), "sentence-transformers 6.2 in float32"
    ),
}
# What a rounding of the weights may change a similarity by; the first whose bits a parameter are enough.
TOLERANCES: Final = ((15.0, 0.01), (8.0, 0.03), (0.0, 0.08))
# Without a reference: by how much a question must be nearer to its own answer than to the other.
MARGIN: Final = 0.15
# The same text alone and in a batch: what float32 and bfloat16 change.
NEIGHBOURS: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was computed and what was expected; `problems` in words, none when all is right.

    `reference` says where the expected similarities come from, None where none are published.
    """

    model: str
    similarities: tuple[tuple[float, ...], ...]
    expected: tuple[tuple[float, ...], ...] | None
    tolerance: float | None
    reference: str | None
    problems: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "right": self.right}


def verify_model(config: EmbeddingConfig) -> Verification:
    """Embeds the example with the configured model, at its full width and with its own instructions.

    Raises what loading the model raises.
    """
    function = MLXEmbeddingFunction(
        config.model_name,
        dimension=None,
        pooling=None,
        normalize=True,
        max_tokens=None,
        query_instruction=None,
        document_instruction=None,
        on_long_text="truncate",
        embedding_cache=None,  # what the model computes now is to be seen
        config=config,
    )
    queries, documents = function.encode(QUERIES, "query"), function.encode(DOCUMENTS, "document")
    found = queries @ documents.T  # (2, 2)
    known = find_known(config.model_name)
    reference = REFERENCES.get(known.source) if known else None
    problems = []
    tolerance = None
    if reference is not None and known is not None:
        tolerance = next(allowed for bits, allowed in TOLERANCES if known.bits >= bits)
        worst = float(np.abs(found - np.array(reference.similarities)).max())
        if worst > tolerance:
            problems.append(f"a similarity is {worst:.4f} off, and {tolerance} is what {known.quantization} may change")
    else:
        margin = float(min(found[0, 0] - found[0, 1], found[1, 1] - found[1, 0]))
        if margin < MARGIN:
            problems.append(f"a question is only {margin:.3f} nearer to its own answer than to the other")
    alone = function.encode([DOCUMENTS[0]])[0]
    moved = float(np.abs(alone - documents[0]).max())
    if moved > NEIGHBOURS:
        problems.append(f"a text's vector moves by {moved:.3f} with its neighbours in the batch")
    return Verification(
        model=config.model_name,
        similarities=tuple(tuple(float(value) for value in row) for row in found),
        expected=reference.similarities if reference else None,
        tolerance=tolerance,
        reference=reference.source if reference else None,
        problems=tuple(problems),
    )

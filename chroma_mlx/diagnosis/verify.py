"""Embeds texts whose similarities are known, and compares: what tells a right installation from a plausible one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..config import EmbeddingConfig
from ..functions import MLXEmbeddingFunction
from .recognition import Recognition, recognise
from .references import CHINA_AND_GRAVITY, FAMILIES, REFERENCES, Reference

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

Matrix = npt.NDArray[np.float32]

# What a rounding of the weights may change a similarity by; the first whose bits a value are enough. Measured on
# the example, with the built-in model and all-MiniLM-L6-v2 in every packing: bfloat16 weights and activations
# 0.0016, 8 bits (affine, mxfp8) 0.0055, 4 bits (affine, mxfp4, nvfp4) 0.053; 3 and 2 bits are beyond, 0.065 and
# 0.22. What is wrong begins at 0.069 (a prefix of another model) and 0.085 (another pooling).
TOLERANCES: Final = ((16, 0.01), (8, 0.02), (0, 0.06))
# Without a reference: by how much a question must be nearer to its own answer than to the other. This shows
# a broken model and no more: of 47 checkpoints of random weights 4 pass (up to 0.29), and so do 3 of 4 wrong
# poolings of good weights (0.27 to 0.57, where the right ones have 0.55 and 0.66). It is not larger because the
# similarities of multilingual-e5 lie around 0.7 to 1.0, as its page says.
MARGIN: Final = 0.05
# A text's cosine with itself among others in a batch. Measured on a CPU: 1 - 1.2e-7, in float32 on 47 small
# checkpoints and 3 real ones, in bfloat16 on the tests' own and 2. Padding that is pooled gives 0.50; products that
# accumulate in bfloat16, the worst rounding that is known, 0.98.
NEIGHBOURS: Final = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was computed and what was expected.

    `recognised` is the model of the table that the checkpoint was taken for, `by` how that is known ("given",
    "name", "weights" or "shape"). `reference` says where the expected similarities come from, None where there
    are none. `held` and `not_held` say in words what was compared and what could not be; `problems` what is wrong.
    """

    model: str
    recognised: str | None
    by: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    similarities: tuple[tuple[float, ...], ...]
    expected: tuple[tuple[float, ...], ...] | None
    tolerance: float | None
    reference: str | None
    published: bool
    held: tuple[str, ...]
    not_held: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """ "wrong" with a problem; "right" where a reference agrees; else "plausible"."""
        if self.problems:
            return "wrong"
        return "right" if self.expected is not None else "plausible"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "verdict": self.verdict}


def verify_model(config: EmbeddingConfig, as_name: str | None = None) -> Verification:
    """Embeds the example with the configured model, at its full width and with its own instructions.

    `as_name` is the model of the table that a folder is, "none" for none of it; without it that is found by
    the checkpoint's shape. Raises ConfigError for a name that is not in the table, and what loading raises.
    """
    from ..engine.fingerprint import make_fingerprint

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
    checkpoint = function.encoder().load().checkpoint
    recognition = recognise(checkpoint, config.model_name, as_name)
    reference = REFERENCES.get(recognition.source or "")
    example = reference.example if reference else CHINA_AND_GRAVITY
    queries, documents = function.encode(example.queries, "query"), function.encode(example.documents, "document")
    found = queries @ documents.T  # (queries, documents)
    alone = function.encode([example.documents[0]])[0]
    bits = bits_of(checkpoint)
    tolerance = next(allowed for least, allowed in TOLERANCES if bits >= least) if reference else None
    pooling = make_fingerprint(function.settings, checkpoint).pooling
    differing = similarity_problems(found, reference, tolerance, bits)
    neighbours = neighbour_problems(alone, documents[0])
    problems = [*shape_problems(recognition, checkpoint), *pooling_problems(recognition, pooling), *differing]
    family = FAMILIES.get(recognition.source or "")
    if problems and family is not None and recognition.how == "shape":
        problems.append(f"it was taken for {family.name} by its shape: if it is another model, pass `--as none`")
    return Verification(
        model=config.model_name,
        recognised=family.name if family else None,
        by=recognition.how,
        queries=example.queries,
        documents=example.documents,
        similarities=tuple(tuple(float(value) for value in row) for row in found),
        expected=reference.similarities if reference else None,
        tolerance=tolerance,
        reference=reference.source if reference else None,
        published=reference is not None and reference.published,
        held=_held(reference, tolerance, similar=not differing, steady=not neighbours),
        not_held=() if reference else _not_held(recognition),
        problems=(*problems, *neighbours),
    )


def bits_of(checkpoint: Checkpoint) -> int:
    """The fewest bits of a value among a checkpoint's matrices."""
    if checkpoint.quantization is None:
        return 16
    packings = (checkpoint.quantization.default, *checkpoint.quantization.overrides.values())
    return min(packing.bits for packing in packings)


def similarity_problems(found: Matrix, reference: Reference | None, tolerance: float | None, bits: int) -> list[str]:
    """What is wrong with the similarities (queries, documents), by the reference, or without one by their order."""
    if reference is not None and tolerance is not None:
        worst = float(np.abs(found - np.array(reference.similarities)).max())
        if not worst <= tolerance:
            return [f"a similarity is {worst:.4f} off, and weights of {bits} bits may change one by {tolerance}"]
        return []
    margin = float(min(found[0, 0] - found[0, 1], found[1, 1] - found[1, 0]))
    return [] if margin >= MARGIN else [f"a question is only {margin:.3f} nearer to its own answer than to the other"]


def neighbour_problems(alone: Matrix, together: Matrix) -> list[str]:
    """Whether a text's unit vector, (dimension,), is another among neighbours in a batch."""
    cosine = float(alone @ together)
    return [] if cosine >= NEIGHBOURS else [f"a text has a cosine of {cosine:.3f} with itself among others in a batch"]


def shape_problems(recognition: Recognition, checkpoint: Checkpoint) -> list[str]:
    """Whether the files are of another architecture or size than the recognised model's."""
    family = FAMILIES.get(recognition.source or "")
    if family is None:
        return []
    config = checkpoint.config
    return [
        f"its {what} is {found!r}, and that of {family.name} {own!r}: it is another model"
        for what, found, own in (
            ("architecture", config.get("model_type"), family.architecture),
            ("hidden size", config.get("hidden_size"), family.hidden_size),
            ("number of layers", config.get("num_hidden_layers"), family.layers),
        )
        if found != own
    ]


def pooling_problems(recognition: Recognition, pooling: str) -> list[str]:
    """Whether the vectors are pooled in another way than the recognised model's."""
    family = FAMILIES.get(recognition.source or "")
    if family is None or family.pooling == pooling:
        return []
    return [
        f"it is pooled by {pooling!r}, and {family.name} is by {family.pooling!r}: its folder lacks 1_Pooling, or has "
        f"another's. Fetch it whole, or set `pooling: {family.pooling}`"
    ]


def _held(reference: Reference | None, tolerance: float | None, *, similar: bool, steady: bool) -> tuple[str, ...]:
    held = []
    if similar and reference is None:
        held.append("each question is nearer to its own answer")
    elif similar and reference is not None:
        kind = "published" if reference.published else "stored"
        held.append(f"the {kind} similarities ({reference.source}), within {tolerance}")
    if steady:
        held.append("a text has the same vector alone and in a batch")
    return tuple(held)


def _not_held(recognition: Recognition) -> tuple[str, ...]:
    if recognition.candidates:
        names = ", ".join(FAMILIES[source].name for source in recognition.candidates)
        return (f"any known similarities: it has the shape of {names}; say which it is with --as NAME",)
    if recognition.source is None and recognition.how == "given":
        return ("any known similarities: it is no model of the table, as --as has it",)
    if recognition.source is None:
        return ("any known similarities: it is no model of the table by its shape; if it is one, pass --as NAME",)
    return ("any known similarities: there are none for this model",)

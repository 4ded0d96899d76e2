"""What made a vector: everything that tells one space of vectors from another, with nothing left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..checkpoint import Checkpoint, sound_values
from ..checkpoint.dense import dense_width
from ..models.architecture import find_defaults
from ..settings import VectorSettings
from .plan import resolve_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What made the vectors of a collection; plain JSON values.

    `model` is the name it was asked for by, which may be another for the same weights; `weights` a hash of
    them, the tokenizer and the model's own configuration; `quantization` in words; the instructions are the
    texts put before a query and a document, "" for none.
    """

    model: str
    weights: str
    quantization: str
    pooling: str
    dimension: int
    normalize: bool
    max_tokens: int
    query_instruction: str
    document_instruction: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def differences(self, stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """(stored, own) of each field in which `stored` differs. Equal weights may go by several names."""
        own = self.to_dict()
        names = [field.name for field in fields(self) if field.name in stored and stored[field.name] != own[field.name]]
        return {name: (stored[name], own[name]) for name in names if name != "model" or "weights" in names}


def make_fingerprint(settings: VectorSettings, checkpoint: Checkpoint) -> Fingerprint:
    """The fingerprint of the vectors that `settings` give with `checkpoint`; reads files, loads nothing.

    Raises ConfigError when a setting is outside what the model can do, UnsupportedModel.
    """
    defaults = find_defaults(checkpoint.config)
    with sound_values(f"config.json in {checkpoint.folder}"):
        width = dense_width(checkpoint, int(checkpoint.config["hidden_size"]), defaults.dense_layers)
    meaning = resolve_settings(settings, checkpoint, defaults, width)
    return Fingerprint(
        model=settings.model_name,
        weights=checkpoint.weights_hash,
        quantization=describe_quantization(checkpoint),
        pooling=meaning.pooling,
        dimension=meaning.dimension,
        normalize=settings.normalize,
        max_tokens=meaning.max_tokens,
        query_instruction=meaning.prompts["query"],
        document_instruction=meaning.prompts["document"],
    )


def describe_quantization(checkpoint: Checkpoint) -> str:
    """How the weights are stored, in words: "4-bit affine, groups of 64", or "bfloat16"."""
    if checkpoint.quantization is not None:
        packing = checkpoint.quantization.default
        return f"{packing.bits}-bit {packing.mode}, groups of {packing.group_size}"
    # BERT's files hold position ids too, whole numbers that are no weights.
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    stored = {info.dtype for info in checkpoint.tensors.values()}
    return " and ".join(sorted(names[dtype] for dtype in stored & set(names)))

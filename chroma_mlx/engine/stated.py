"""What a checkpoint's files say of its model, and where that is not what the table of known models says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..checkpoint import Checkpoint, sound_values
from ..checkpoint.dense import dense_width
from ..models.architecture import find_defaults, positions_of
from ..models.known import KnownModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What the files state, by the table's names; None is what they leave open.

    `max_tokens` is the longest text that they declare; `limit` the most that tokenizer and positions allow,
    whatever is declared.
    """

    architecture: str
    dimension: int
    max_tokens: int | None
    limit: int | None
    pooling: str | None
    prompts: Mapping[str, str] | None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name: plain JSON values."""
        return asdict(self)

    def differences(self, known: KnownModel) -> dict[str, tuple[Any, Any]]:
        """(the table's, the files') of each figure that both have and that is not the same.

        Where no longest text is declared, positions for fewer tokens than the table's are a difference, and
        those for more are none: a model may have more than its makers recommend.
        """
        pairs: dict[str, tuple[Any, Any]] = {
            "architecture": (known.architecture, self.architecture),
            "dimension": (known.dimension, self.dimension),
            "pooling": (known.pooling, self.pooling),
            "max_tokens": (known.max_tokens, self.max_tokens or min(self.limit or known.max_tokens, known.max_tokens)),
        }
        if known.prompts is not None and self.prompts is not None:
            pairs |= {f"prompts.{kind}": (text, self.prompts.get(kind)) for kind, text in known.prompts.items()}
        return {name: (was, now) for name, (was, now) in pairs.items() if now is not None and was != now}


def read_stated(checkpoint: Checkpoint) -> Stated:
    """What the files of `checkpoint` state; loads nothing. Raises UnsupportedModel, CorruptCheckpoint."""
    defaults = find_defaults(checkpoint.config)
    with sound_values(f"config.json in {checkpoint.folder}"):
        width = dense_width(checkpoint, int(checkpoint.config["hidden_size"]), defaults.dense_layers)
        limits = [checkpoint.max_tokens, positions_of(checkpoint.config) if defaults.absolute_positions else None]
    return Stated(
        architecture=checkpoint.config["model_type"],
        dimension=width,
        max_tokens=checkpoint.declared.max_tokens,
        limit=min((limit for limit in limits if limit is not None), default=None),
        pooling=checkpoint.declared.pooling,
        prompts=checkpoint.declared.prompts,
    )

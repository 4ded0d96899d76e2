"""What is known of a model without loading it: the table's row, what its files state, and what differs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..config import EmbeddingConfig
from ..engine.stated import Stated, read_stated
from ..errors import ModelNotFound
from ..models.known import KnownModel, find_known
from ..router.embedders import MLXEmbedder
from ..router.report import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The table's row, what the files state, and what both come to as configured; None is what there is not.

    `differences` has (the table's, the files') by the row's field.
    """

    table: KnownModel | None
    declared: Stated | None
    files: ModelInfo | None
    differences: dict[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        table = self.table
        return {
            "table": table and dataclasses.asdict(table) | {"download_bytes": table.download_bytes},
            "declared": self.declared and self.declared.to_dict(),
            "files": self.files and self.files.to_dict(),
            "differences": {name: {"table": was, "files": now} for name, (was, now) in self.differences.items()},
        }


def describe_model(config: EmbeddingConfig) -> Description:
    """What is known of the configured model; fetches and loads nothing.

    Raises ModelNotFound for one that is neither in the table nor on this disk, CheckpointError.
    """
    known, embedder = find_known(config.model_name), MLXEmbedder(config)
    checkpoint = embedder.checkpoint()
    if checkpoint is None and known is None:
        raise ModelNotFound(
            f"The model {config.model_name!r} is neither in the table nor in the cache, so nothing is known of it. "
            f"Fetch it: `chroma-mlx models download {config.model_name}`; `chroma-mlx models list` shows the table."
        )
    declared = None if checkpoint is None else read_stated(checkpoint)
    return Description(
        table=known,
        declared=declared,
        files=None if checkpoint is None else embedder.info(),
        differences=declared.differences(known) if declared and known else {},
    )

"""The dense layers behind the pooling: which there are, and how wide. Reads headers, loads nothing."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import CheckpointError, CorruptCheckpoint
from .open import Checkpoint


def dense_shapes(checkpoint: Checkpoint, hidden_size: int, layers: int) -> Mapping[str, tuple[int, ...]]:
    """Every tensor of the dense layers with its unquantised shape; `layers` is how many the architecture has.

    A modules.json says how many there are; without one they are those that the tensors show, and none but
    the architecture's own number will do. Raises CheckpointError when layers are missing.
    """
    declared = checkpoint.declared.dense
    count = len(declared) if declared is not None else layers
    shapes: dict[str, tuple[int, ...]] = {}
    width = hidden_size
    for place in range(count):
        name = f"dense.{place}.weight"
        if name not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.folder} has no {name}: the dense layers behind the pooling are missing, without which "
                "the vectors would be wrong. Use a conversion that has them, or the official checkpoint."
            )
        rows = checkpoint.tensors[name].shape[0]
        stated = declared[place] if declared is not None else None
        if stated and stated.out_features and (stated.in_features, stated.out_features) != (width, rows):
            raise CorruptCheckpoint(
                f"{stated.folder} declares a layer from {stated.in_features} to {stated.out_features} values, but its "
                f"weight has {rows} rows and the layer before it {width} values. Fetch the model again."
            )
        shapes[name] = (rows, width)
        if f"dense.{place}.bias" in checkpoint.tensors or (stated and stated.bias):
            shapes[f"dense.{place}.bias"] = (rows,)
        width = rows
    return shapes


def dense_width(checkpoint: Checkpoint, hidden_size: int, layers: int) -> int:
    """The width of the vectors behind the dense layers. Raises CheckpointError when layers are missing."""
    weights = [
        shape for name, shape in dense_shapes(checkpoint, hidden_size, layers).items() if name.endswith(".weight")
    ]
    return weights[-1][0] if weights else hidden_size

"""Holds the tensors of a checkpoint against what its architecture expects, from the headers alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import WeightsMismatch
from .open import Checkpoint

# The shape of every matrix and vector of an architecture, by name, as if nothing were quantised.
Shapes = Mapping[str, tuple[int, ...]]


def check_fit(checkpoint: Checkpoint, expected: Shapes, ignorable: re.Pattern[str]) -> None:
    """Raises WeightsMismatch, with the first few names, unless the tensors are just those `expected`.

    `expected` names unquantised tensors; where a matrix is packed (it has `.scales`), the packed shapes
    are derived from it. Names that match `ignorable` may be there or not and are never read.
    """
    want: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        want.update(_packed_shapes(checkpoint, name, shape))
    have = {name: info.shape for name, info in checkpoint.tensors.items() if not ignorable.fullmatch(name)}
    missing = tuple(sorted(want.keys() - have.keys()))
    unexpected = tuple(sorted(have.keys() - want.keys()))
    misshapen = tuple(name for name in sorted(want.keys() & have.keys()) if want[name] != have[name])
    if not (missing or unexpected or misshapen):
        return
    parts = [
        f"{len(missing)} missing ({_first(missing)})" if missing else "",
        f"{len(unexpected)} not known ({_first(unexpected)})" if unexpected else "",
        f"{len(misshapen)} of another shape ({_first(tuple(f'{n} {have[n]}, not {want[n]}' for n in misshapen))})"
        if misshapen
        else "",
    ]
    raise WeightsMismatch(
        f"The weights in {checkpoint.folder} do not fit its config.json: {'; '.join(p for p in parts if p)}. "
        "Either a file is from another model or the conversion is broken; fetch the model again, or convert it "
        "with mlx-lm.",
        missing=missing,
        unexpected=unexpected,
        misshapen=misshapen,
    )


def _packed_shapes(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Shapes:
    path = name.removesuffix(".weight")
    quantization = checkpoint.quantization
    if quantization is None or len(shape) != 2 or f"{path}.scales" not in checkpoint.tensors:
        return {name: shape}
    packing = quantization.of(path)
    rows, columns = shape
    groups = (rows, columns // packing.group_size)
    shapes = {name: (rows, columns * packing.bits // 32), f"{path}.scales": groups}  # 32-bit words
    return shapes | ({f"{path}.biases": groups} if packing.has_biases else {})


def _first(names: tuple[str, ...], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")

"""Reads the headers of safetensors files, so that a bad file is named before any weight is loaded.

Format: https://github.com/huggingface/safetensors#format — eight bytes of length (little endian), a JSON
header, then the tensors' bytes, each tensor with the offsets of its bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import CorruptCheckpoint

# Bits an element; the sub-byte and exotic types that safetensors knows are refused as not supported by MLX.
DTYPE_BITS: Final = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the reference implementation


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: the file, its name there, its dtype by safetensors' name, and its shape."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, by name.

    Raises CorruptCheckpoint when the file is not whole: truncated, too long, no header, overlapping or
    missing bytes, or a dtype that MLX has no type for.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise _corrupt(file, "it has no whole safetensors header")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise _corrupt(file, "its safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise _corrupt(file, "its safetensors header is not an object")
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _tensor(file, name, entry)
        spans.append(span)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _corrupt(file, f"its tensors leave a gap or overlap at byte {position}")
        position = end
    if position != size - 8 - length:
        raise _corrupt(file, f"it holds {size - 8 - length} bytes of tensors, but its header names {position}")
    return tensors


def _tensor(file: Path, name: str, entry: object) -> tuple[TensorInfo, tuple[int, int]]:
    try:
        if not isinstance(entry, dict):
            raise TypeError("not an object")
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise _corrupt(file, f"its entry for {name!r} is malformed") from error
    if dtype not in DTYPE_BITS:
        raise _corrupt(file, f"tensor {name!r} has the dtype {dtype}, which MLX has no type for")
    if min(shape, default=0) < 0 or (end - begin) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
        raise _corrupt(
            file, f"tensor {name!r} of shape {shape} and dtype {dtype} does not fill its {end - begin} bytes"
        )
    return TensorInfo(file, name, dtype, shape), (begin, end)


def _corrupt(file: Path, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{file} is damaged: {why}. The download or copy was probably interrupted. "
        "Delete the file and fetch the model again."
    )

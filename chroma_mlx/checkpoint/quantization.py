"""How a checkpoint packs its weights: MLX's own formats, read from config.json.

Source of the key names: mlx-lm's `load_model` and MLX's `nn.quantize`, which write `quantization` with a
default for the whole model and, under a module's path, what is different there (`false`: not quantised).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import CorruptCheckpoint, UnsupportedModel

# Bits and group sizes that MLX's dequantize takes, by mode (mlx.core.quantize's own documentation).
AFFINE_BITS: Final = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS: Final = (32, 64, 128)
FLOAT_MODES: Final = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


@dataclass(frozen=True, slots=True)
class Packing:
    """How one matrix is packed: `group_size` neighbours of a row share a scale, `bits` a value."""

    group_size: int
    bits: int
    mode: str = "affine"

    @property
    def has_biases(self) -> bool:
        """Only the affine mode has an offset a group beside its scale."""
        return self.mode == "affine"


@dataclass(frozen=True, slots=True)
class Quantization:
    """The packing of a whole checkpoint; module paths are relative to the model's root."""

    default: Packing
    overrides: Mapping[str, Packing]

    def of(self, path: str) -> Packing:
        """The packing of the module at `path` (whether it is quantised at all, its tensors say)."""
        return self.overrides.get(path, self.default)


def read_quantization(config: Mapping[str, Any], prefix: str) -> Quantization | None:
    """The quantisation that config.json declares, or None; `prefix` is cut from module paths.

    Raises UnsupportedModel for the formats of other frameworks (GPTQ, AWQ, bitsandbytes, …), and
    CorruptCheckpoint for values that are no quantisation.
    """
    declared = config.get("quantization")
    if declared is None:
        foreign = config.get("quantization_config")
        if foreign is None:
            return None
        method = foreign.get("quant_method") if isinstance(foreign, Mapping) else foreign
        if method is not None:
            raise UnsupportedModel(
                f"The checkpoint is quantised with {method!r}, which is not a format of MLX. Use a conversion made "
                "with mlx-lm (affine 2 to 8 bits, mxfp4, mxfp8, nvfp4), or the unquantised checkpoint."
            )
        declared = foreign
    if not isinstance(declared, Mapping):
        raise CorruptCheckpoint(f"config.json: quantization is {declared!r}, not an object. Fetch the model again.")
    default = _packing("quantization", declared)
    overrides = {
        path.removeprefix(prefix): _packing(f"quantization.{path}", value, default)
        for path, value in declared.items()
        if isinstance(value, Mapping)
    }
    return Quantization(default, overrides)


def _packing(where: str, entry: Mapping[str, Any], default: Packing | None = None) -> Packing:
    mode = entry.get("mode", default.mode if default and "bits" not in entry else "affine")
    # What is left out is the whole model's, unless the mode is another one: then it is that mode's own.
    same_mode = default is not None and mode == default.mode
    group_size, bits = (default.group_size, default.bits) if default and same_mode else FLOAT_MODES.get(mode, (64, 4))
    packing = Packing(entry.get("group_size", group_size), entry.get("bits", bits), mode)
    whole = type(packing.bits) is int and type(packing.group_size) is int  # MLX takes no 4.0 for 4
    allowed = whole and (
        packing.bits in AFFINE_BITS and packing.group_size in AFFINE_GROUPS
        if mode == "affine"
        else FLOAT_MODES.get(mode) == (packing.group_size, packing.bits)
    )
    if not allowed:
        raise UnsupportedModel(
            f"config.json: {where} asks for mode {mode!r} with {packing.bits} bits in groups of {packing.group_size}, "
            f"which MLX does not have. It has affine ({AFFINE_BITS} bits in groups of {AFFINE_GROUPS}) and "
            f"{', '.join(f'{name} ({b} bits, groups of {g})' for name, (g, b) in FLOAT_MODES.items())}."
        )
    return packing

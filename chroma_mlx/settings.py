"""What a function is made with: the settings that determine the vectors, and those of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from .errors import ConfigError
from .models.known import DEFAULT_MODEL, find_known

POOLINGS: Final = ("last", "mean", "cls")
LONG_TEXT: Final = ("truncate", "error")
DEVICES: Final = ("auto", "gpu", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSettings:
    """What determines the vectors; saved with a collection. None is what the model itself declares.

    `dimension` and `max_tokens` are counts; `pooling` is "last", "mean" or "cls". An instruction is what is
    put before a text: a prefix, which ends in a colon or white space, is used as it is; anything else is a
    task, and goes into the model's own form where it has one (Qwen3: `Instruct: {task}\\nQuery:`); "" is none.
    Raises ConfigError for a value that is not allowed.
    """

    model_name: str = DEFAULT_MODEL
    dimension: int | None = None
    pooling: Literal["last", "mean", "cls"] | None = None
    normalize: bool = True
    max_tokens: int | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None
    on_long_text: Literal["truncate", "error"] = "truncate"

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str) or not self.model_name.strip():
            raise _not_allowed("model_name", self.model_name, "a short name, a Hub repository id or a folder")
        _check_count("dimension", self.dimension, optional=True)
        _check_choice("pooling", self.pooling, (*POOLINGS, None))
        _check_flag("normalize", self.normalize)
        _check_count("max_tokens", self.max_tokens, optional=True)
        for name in ("query_instruction", "document_instruction"):
            if not isinstance(getattr(self, name), str | None):
                raise _not_allowed(name, getattr(self, name), "a text, '' for none, or None for the model's own")
            if any("\ud800" <= character <= "\udfff" for character in getattr(self, name) or ""):
                raise _not_allowed(name, getattr(self, name), "a text without lone surrogates")
        _check_choice("on_long_text", self.on_long_text, LONG_TEXT)
        known = find_known(self.model_name)
        if known and self.dimension is not None:
            check_dimension(self.dimension, self.model_name, known.min_dimension, known.dimension)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name: plain JSON values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSettings:
    """What belongs to one machine and changes no vector; never saved with a collection.

    `batch_size` is texts a forward pass, `batch_tokens` padded tokens a forward pass. `cache_dir` None is
    the Hugging Face cache. `show_progress` None shows a bar on a terminal when work takes long.
    """

    batch_size: int = 32
    batch_tokens: int = 16_384
    device: Literal["auto", "gpu", "cpu"] = "auto"
    cache_dir: str | os.PathLike[str] | None = None
    auto_download: bool = True
    show_progress: bool | None = None

    def __post_init__(self) -> None:
        _check_count("batch_size", self.batch_size)
        _check_count("batch_tokens", self.batch_tokens)
        _check_choice("device", self.device, DEVICES)
        if not isinstance(self.cache_dir, str | os.PathLike | None):
            raise _not_allowed("cache_dir", self.cache_dir, "a folder, or None for the Hugging Face cache")
        _check_flag("auto_download", self.auto_download)
        if self.show_progress is not None:
            _check_flag("show_progress", self.show_progress)

    @property
    def cache_path(self) -> Path | None:
        """`cache_dir` as a path, `~` expanded."""
        return None if self.cache_dir is None else Path(self.cache_dir).expanduser()


def check_dimension(dimension: int, model: str, smallest: int, largest: int) -> None:
    """Raises ConfigError unless the model has a Matryoshka width of `dimension`."""
    if not smallest <= dimension <= largest:
        raise ConfigError(
            f"dimension is {dimension}, but {model} gives vectors of {smallest} to {largest} dimensions. "
            f"Set a dimension in that range, or leave it None for all {largest}."
        )


def _check_count(name: str, value: object, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _not_allowed(name, value, "a whole number of 1 or more" + (", or None" if optional else ""))


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not isinstance(value, str | None) or value not in allowed:
        raise _not_allowed(name, value, " or ".join(repr(choice) for choice in allowed))


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _not_allowed(name, value, "True or False")


def _not_allowed(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{name} is {value!r}, which is not allowed. Set it to {allowed}.")

"""What a function is made with: the settings that determine the vectors, and those of this machine.

Each setting says what it allows and what it is for where it is declared; the arguments of the functions, the
configuration file and its commented template are all checked and written from that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .errors import ConfigError
from .models.known import DEFAULT_MODEL, find_known
from .rules import (
    COUNT,
    FILE,
    FLAG,
    FOLDER,
    GIGABYTES,
    INSTRUCTION,
    MILLISECONDS,
    MODEL,
    Rule,
    one_of,
    optional,
    refusals,
)


def setting(default: Any, rule: Rule, purpose: str) -> Any:
    """A field of a settings class, with the rule for its values and what it is for, in a line."""
    return field(default=default, metadata={"rule": rule, "purpose": purpose})


def rule_of(setting: Field[Any]) -> Rule:
    """The rule of a field made by `setting`."""
    rule: Rule = setting.metadata["rule"]
    return rule


class _Checked:
    """A settings class that refuses, all at once, the values that its rules do not allow."""

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        problems = [problem for _, problem in explain_problems(type(self), values)]
        if not problems and (reason := dimension_problem(values)):
            problems.append(f"dimension is {values['dimension']}, but {reason}")
        if problems:
            raise ConfigError(" ".join(problems), problems=tuple(problems))


@dataclass(frozen=True, kw_only=True)
class VectorSettings(_Checked):
    """What determines the vectors; saved with a collection. None is what the model itself declares.

    `dimension` and `max_tokens` are counts; `pooling` is "last", "mean" or "cls". An instruction is what is
    put before a text: a prefix, which ends in a colon or white space, is used as it is; anything else is a
    task, and goes into the model's own form where it has one (Qwen3: `Instruct: {task}\\nQuery:`); "" is none.
    Raises ConfigError, naming every value that is not allowed.
    """

    model_name: str = setting(DEFAULT_MODEL, MODEL, "a short name, a Hub repository id or a folder")
    dimension: int | None = setting(None, optional(COUNT), "Matryoshka width; null is the model's own")
    pooling: Literal["last", "mean", "cls"] | None = setting(
        None, one_of("last", "mean", "cls", None), "last, mean or cls; null is what the checkpoint declares"
    )
    normalize: bool = setting(True, FLAG, "scale every vector to unit length")
    max_tokens: int | None = setting(None, optional(COUNT), "longest text in tokens; null is the checkpoint's own")
    query_instruction: str | None = setting(None, INSTRUCTION, "before a query; '' is none, null the checkpoint's own")
    document_instruction: str | None = setting(
        None, INSTRUCTION, "before a document; '' is none, null the checkpoint's own"
    )
    on_long_text: Literal["truncate", "error"] = setting(
        "truncate", one_of("truncate", "error"), "what happens to a text beyond max_tokens: truncate or error"
    )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name: plain JSON values."""
        return {each.name: getattr(self, each.name) for each in fields(VectorSettings)}


@dataclass(frozen=True, kw_only=True)
class MachineSettings(_Checked):
    """What belongs to one machine and changes no vector; never saved with a collection.

    `batch_size` is texts a forward pass, `batch_tokens` tokens. `max_queue` and `max_queue_tokens` bound what
    waits for the model, of all calls together. `cache_dir` None is the Hugging Face cache. `show_progress`
    None shows a bar on a terminal when work takes long.
    `embedding_cache` is a file, None for no vector cache, and `embedding_cache_gb` its bound in 10**9 bytes.
    Raises ConfigError, naming every value that is not allowed.
    """

    batch_size: int = setting(128, COUNT, "most texts in a forward pass")
    batch_tokens: int = setting(16_384, COUNT, "most tokens in a forward pass; a CPU takes 1024 at most")
    batch_timeout_ms: float = setting(
        5, MILLISECONDS, "longest wait after a pass for other calls under way to join the next one"
    )
    max_queue: int = setting(4_096, COUNT, "most texts of all calls that wait for the model")
    max_queue_tokens: int = setting(1_048_576, COUNT, "most tokens of all calls that wait for the model")
    queue_policy: Literal["wait", "fail_fast"] = setting(
        "wait", one_of("wait", "fail_fast"), "of a call beyond max_queue: wait for room, or fail_fast with QueueFull"
    )
    device: Literal["auto", "gpu", "cpu"] = setting("auto", one_of("auto", "gpu", "cpu"), "auto, gpu or cpu")
    own_process: bool | None = setting(
        None, optional(FLAG), "compute in a process of its own; null: only serve, ingest and migrate do"
    )
    auto_download: bool = setting(True, FLAG, "fetch a model that is not cached at first use")
    cache_dir: str | os.PathLike[str] | None = setting(
        None, optional(FOLDER), "where models are downloaded to; null is the Hugging Face cache"
    )
    max_cache_gb: float | None = setting(None, optional(GIGABYTES), "most that downloaded models may take; null: any")
    show_progress: bool | None = setting(None, optional(FLAG), "a bar for long work; null: on a terminal")
    embedding_cache: str | os.PathLike[str] | None = setting(
        None, optional(FILE), "a file that keeps vectors for when their text comes again; null: none"
    )
    embedding_cache_gb: float = setting(
        1.0, GIGABYTES, "most that the file may take; the vectors used least recently leave"
    )

    @property
    def cache_path(self) -> Path | None:
        """`cache_dir` as a path, `~` expanded."""
        # pathlib's own expanduser() raises for a user that does not exist.
        return None if self.cache_dir is None else Path(os.path.expanduser(self.cache_dir))

    @property
    def embedding_cache_path(self) -> Path | None:
        """`embedding_cache` as a path, `~` expanded."""
        return None if self.embedding_cache is None else Path(os.path.expanduser(self.embedding_cache))


def explain_problems(settings: type, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, what is wrong in words) of each value that its rule in the class `settings` refuses."""
    return refusals(values, {each.name: rule_of(each) for each in fields(settings)})


def dimension_problem(values: Mapping[str, Any]) -> str | None:
    """Why a model of the table does not have the `dimension`, in words; None when it does, or nothing is known.

    The other modes than "mlx" take any width: their vectors are no model's of the table.
    """
    if values.get("mode", "mlx") != "mlx" or "dimension" not in values:
        return None
    known, dimension = find_known(values["model_name"]), values["dimension"]
    if known is None or dimension is None or known.min_dimension <= dimension <= known.dimension:
        return None
    return _widths(values["model_name"], known.min_dimension, known.dimension)


def check_dimension(dimension: int, model: str, smallest: int, largest: int) -> None:
    """Raises ConfigError unless the model has a Matryoshka width of `dimension`."""
    if not smallest <= dimension <= largest:
        raise ConfigError(f"dimension is {dimension}, but {_widths(model, smallest, largest)}")


def _widths(model: str, smallest: int, largest: int) -> str:
    return (
        f"{model} gives vectors of {smallest} to {largest} dimensions. Set a dimension in that range, or leave it None "
        f"for all {largest}."
    )

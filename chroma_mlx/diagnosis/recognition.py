"""Which model of the table a checkpoint is, whatever it is called by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..checkpoint import Checkpoint, open_checkpoint
from ..checkpoint.locate import BUILTIN_FOLDER
from ..errors import ConfigError
from ..models.known import KNOWN_MODELS, find_known
from .references import FAMILIES

# What --as takes for a model that is none of the table.
NONE: Final = "none"
BUILTIN: Final = KNOWN_MODELS["builtin"].source


@dataclass(frozen=True, slots=True)
class Recognition:
    """The `source` of the rows that a checkpoint belongs to, None for none, and how that is known.

    `how`: "given" (by --as), "name", "weights", or "shape", which another model may have too. `candidates` are the
    sources that fit where several do.
    """

    source: str | None
    how: str
    candidates: tuple[str, ...] = ()


def recognise(checkpoint: Checkpoint, model_name: str, as_name: str | None = None) -> Recognition:
    """What `checkpoint`, opened as `model_name`, is; `as_name` (a name of the table, or "none") wins.

    Raises ConfigError when the table has no `as_name`.
    """
    if as_name is not None:
        given = None if as_name == NONE else find_known(as_name)
        if given is None and as_name != NONE:
            raise ConfigError(
                f"--as is {as_name!r}, which is not in the table of models. It takes {NONE!r}, or one of "
                f"{', '.join(KNOWN_MODELS)}."
            )
        return Recognition(given.source if given else None, "given")
    known = find_known(model_name)
    if known is not None:
        return Recognition(known.source, "name")
    if checkpoint.weights_hash == open_checkpoint(BUILTIN_FOLDER).weights_hash:
        return Recognition(BUILTIN, "weights")
    fitting = _fitting(checkpoint)
    return Recognition(fitting[0] if len(fitting) == 1 else None, "shape", fitting if len(fitting) > 1 else ())


def _fitting(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The sources of the families of a checkpoint's shape, unless it declares another pooling."""
    config = checkpoint.config
    shape = (config.get("model_type"), config.get("hidden_size"), config.get("num_hidden_layers"))
    return tuple(
        source
        for source, family in FAMILIES.items()
        if (family.architecture, family.hidden_size, family.layers) == shape
        and family.vocabulary == checkpoint.token_rows
        and checkpoint.declared.pooling in (None, family.pooling)
    )

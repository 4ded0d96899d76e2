"""What an architecture's file holds, and where each one is found.

An architecture is one module beside this one and one row of ARCHITECTURES in defaults.py. The module has
    IGNORABLE          names of tensors that may be there and are not needed
    read_config        config.json to a frozen dataclass; refuses what it would compute wrongly
    parameter_shapes   every tensor the model needs, with its unquantised shape
    Model              made of the configuration and the weights; a batch of texts to hidden states
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import UnsupportedModel
from .defaults import ARCHITECTURES, Defaults, Row

if TYPE_CHECKING:
    from .batch import Batch, Ints
    from .host import Array
    from .weights import Weights


class Config(Protocol):
    """What every architecture's configuration has."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...


class Encoder(Protocol):
    """A batch of texts to the hidden states of the tokens it wants, (n, H).

    `causal` says that no token sees what stands behind it, and that the encoder takes and keeps prefixes. `x` is what
    `embed` gives for the batch, computed here where it is None. On a host (see host.py) other threads may call the
    encoder with it; all else is for the MLX thread.
    """

    causal: bool

    def embed(self, ids: Ints, positions: Ints) -> Array:
        """What the layers begin with: of tokens, (T,), and where each stands in its text, (T, H)."""

    def __call__(self, batch: Batch, x: Array | None = None) -> Array: ...


class Architecture(Protocol):
    """The module of an architecture."""

    IGNORABLE: re.Pattern[str]

    def read_config(self, config: Mapping[str, Any]) -> Config: ...
    def parameter_shapes(self, config: Config) -> dict[str, tuple[int, ...]]: ...
    def Model(self, config: Config, weights: Weights) -> Encoder: ...  # noqa: N802 - it is a class there


def find_defaults(config: Mapping[str, Any]) -> Defaults:
    """What holds for config.json's `model_type` where a checkpoint declares nothing. Raises UnsupportedModel."""
    return _row(config).defaults


def positions_of(config: Mapping[str, Any]) -> int:
    """The most tokens that config.json has positions for; XLM-R's stand behind its padding id."""
    positions = int(config.get("max_position_embeddings") or 2**31)
    return (
        positions - int(config.get("pad_token_id", 1)) - 1 if config.get("model_type") == "xlm-roberta" else positions
    )


def find_architecture(config: Mapping[str, Any]) -> Architecture:
    """The module for config.json's `model_type`; raises UnsupportedModel when there is none.

    Importing it imports MLX, so this is called on the MLX thread.
    """
    return cast(Architecture, importlib.import_module(f".{_row(config).module}", __package__))


def _row(config: Mapping[str, Any]) -> Row:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"config.json: model_type is {kind!r}, which is not implemented. Implemented are "
            f"{', '.join(sorted(ARCHITECTURES))}. Use a checkpoint of one of these."
        )
    return ARCHITECTURES[kind]

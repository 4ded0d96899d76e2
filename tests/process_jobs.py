"""Jobs for the engine's process, where the package is without what it imports first."""

from __future__ import annotations

import sys
import warnings

from chroma_mlx.errors import InputError


def has(module: str) -> bool:
    """Whether a module was imported."""
    return module in sys.modules


def raise_input_error(index: int) -> None:
    raise InputError("a text of the call", index=index)


def raise_what_cannot_travel() -> None:
    class Local(Exception):
        pass

    raise Local("of the inside")


def loaded_networks() -> int:
    """How many models' weights are in memory."""
    from chroma_mlx.engine import distant_network

    return len(distant_network._networks)


def warn(message: str) -> None:
    warnings.warn(message, stacklevel=1)


def warn_of_a_kind_of_its_own(message: str) -> int:
    class OfItsOwn(UserWarning):
        pass

    warnings.warn(message, OfItsOwn, stacklevel=1)
    return 1

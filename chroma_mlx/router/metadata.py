"""Metadata as Chroma can hold it. What it would lose in silence is refused here.

Chroma 1.5 drops a NaN, an infinity and every key that begins with "chroma:", and rounds whole numbers of
more than 64 bits, without a word. (It also may change the last bit of a float of 16 digits or more.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from chromadb.base_types import SparseVector

from ..texts import surrogate_problem

RESERVED: Final = ("chroma:", "#", "$")
SMALLEST: Final = -(2**63)
LARGEST: Final = 2**63 - 1


def read_metadata(metadata: object) -> dict[str, Any] | None:
    """The metadata as a dict of plain values; None for an empty one. Raises ValueError with what is wrong, in words."""
    if not isinstance(metadata, Mapping):
        raise ValueError(f"is a {type(metadata).__name__}, not a dict")
    return {_read_key(key): _read_value(key, value) for key, value in metadata.items()} or None


def _read_key(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"has the key {key!r}, which is a {type(key).__name__}, not a str")
    if key == "" or key.startswith(RESERVED):
        raise ValueError(
            f"has the key {key!r}. Chroma keeps the keys that begin with {', '.join(RESERVED)} to itself, and takes no "
            "empty one; rename it"
        )
    if problem := surrogate_problem(key):
        raise ValueError(f"has a key that {problem}")
    return key


def _read_value(key: str, value: object) -> Any:
    if value is None:
        return value
    if isinstance(value, SparseVector):
        raise ValueError(
            f"has a sparse vector under {key!r}, which only Chroma Cloud holds. Write it there through `.chroma`, the "
            "collection's own methods"
        )
    if isinstance(value, np.ndarray):
        value = value.tolist()  # of one without an axis, its one value
    if isinstance(value, list | tuple):
        values = [_read_scalar(key, each) for each in value]
        if not values or len({type(each) for each in values}) > 1:
            raise ValueError(
                f"has {value!r} under {key!r}. Chroma takes a list of one value or more, all of one type; join them "
                "into a text, or use several keys"
            )
        return values
    return _read_scalar(key, value)


def _read_scalar(key: str, value: object) -> str | int | float | bool:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        if problem := surrogate_problem(value):
            raise ValueError(f"has a text under {key!r} that {problem}")
        return str.__str__(value)  # of an enumeration's member the text, not its name
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not SMALLEST <= value <= LARGEST:
            raise ValueError(f"has {value} under {key!r}, which has more than 64 bits. Store it as a text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"has {value} under {key!r}, which Chroma would drop. Leave the key out")
        return float(value)
    raise ValueError(
        f"has {value!r} under {key!r}, a {type(value).__name__}, which Chroma cannot hold. It takes str, int, float, "
        "bool, and lists of one of these; store anything else as text, for example as JSON"
    )

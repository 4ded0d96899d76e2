"""The collection that an import goes into: compared with what made the file's vectors, or made like it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from chromadb.errors import NotFoundError

from ..errors import CollectionMismatch, DimensionMismatch
from ..router.matching import FINGERPRINT_KEY
from .exporting import origin_of
from .parquet import Origin
from .saved_function import build_function, has_function

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

# Settings of an index that say how it is built; what else there is belongs to the machine or the client.
INDEX_KEYS: Final = ("ef_construction", "ef_search", "max_neighbors", "resize_factor", "sync_threshold")
# Of a function's saved settings, what changes no vector.
CHANGEABLE: Final = frozenset({"on_long_text", "url", "api_key_env_var", "timeout_s"})


def open_target(client: ClientAPI, name: str, origin: Origin) -> Collection | None:
    """Collection `name`, if it fits; None where there is none, and one can be made like the exported one.

    Raises CollectionMismatch, DimensionMismatch, and ConfigError when the saved function cannot be built here.
    """
    try:
        collection = client.get_collection(name)
    except NotFoundError:
        creation(origin)  # what fails is to fail before anything is written
        return None
    check_fit(collection, origin)
    return collection


def make_target(client: ClientAPI, name: str, origin: Origin) -> Collection:
    """Makes a collection like the exported one. Raises ConfigError."""
    client.create_collection(name, **creation(origin))
    return client.get_collection(name)


def creation(origin: Origin) -> dict[str, Any]:
    """The arguments that make a collection like the exported one. Raises ConfigError."""
    metadata = dict(origin.metadata)
    if origin.fingerprint is not None:
        metadata[FINGERPRINT_KEY] = json.dumps(origin.fingerprint)
    index = {key: origin.index[key] for key in INDEX_KEYS if key in origin.index}
    function = build_function(origin.function) if origin.function and has_function(origin.function) else None
    return {
        "embedding_function": function,
        "configuration": {"hnsw": {"space": origin.space, **index}},
        "metadata": metadata or None,
    }


def check_fit(collection: Collection, origin: Origin) -> None:
    """Raises CollectionMismatch or DimensionMismatch when a file's vectors do not belong into a collection."""
    own = origin_of(collection)
    if None not in (own.dimension, origin.dimension) and own.dimension != origin.dimension:
        raise DimensionMismatch(
            f"Collection {own.collection!r} stores {own.dimension}-d vectors, and the file has {origin.dimension}-d "
            "ones. Import it into a collection of another name. Nothing was written.",
            expected=own.dimension or 0,
            got=origin.dimension or 0,
        )
    differences = _differences(own, origin)
    if differences:
        fields = ", ".join(f"{key} is {was!r} there and {now!r} in the file" for key, (was, now) in differences.items())
        raise CollectionMismatch(
            f"Collection {own.collection!r} is not of the kind of the file's: {fields}. Vectors of two kinds do not "
            "compare. Import the file into a collection of another name. Nothing was written.",
            differences=differences,
        )


def _differences(own: Origin, origin: Origin) -> dict[str, tuple[Any, Any]]:
    """(the collection's, the file's) of each field that says the vectors are of two kinds."""
    found: dict[str, tuple[Any, Any]] = {}
    if own.space != origin.space:
        found["space"] = (own.space, origin.space)
    names = [(one.function or {}).get("name") for one in (own, origin)]
    if names[0] != names[1]:
        return {**found, "function": (names[0], names[1])}
    if own.fingerprint is not None and origin.fingerprint is not None:
        # Equal weights may go by several names.
        keys = [key for key in origin.fingerprint if key != "model" and key in own.fingerprint]
        return {**found, **_unequal(own.fingerprint, origin.fingerprint, keys)}
    settings = [(one.function or {}).get("config") or {} for one in (own, origin)]
    keys = [key for key in settings[0] if key in settings[1] and key not in CHANGEABLE]
    return {**found, **_unequal(settings[0], settings[1], keys)}


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any], keys: list[str]) -> dict[str, tuple[Any, Any]]:
    return {key: (one[key], other[key]) for key in keys if one[key] != other[key]}

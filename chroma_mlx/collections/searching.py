"""A collection asked by the function saved with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DimensionMismatch, InputError
from ..router.results import Hits, read_results
from ..router.target import space_of
from ..router.vectors import check_query_vectors, read_vector
from .saved_function import build_function, has_function

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection


def search(collection: Collection, text: str, *, n_results: int, where: Mapping[str, Any] | None = None) -> Hits:
    """The records nearest to `text`, best first.

    Raises ConfigError when the collection has no function, or it cannot be built here; DimensionMismatch;
    InputError for a filter that Chroma does not take; and what the function raises.
    """
    saved = collection.configuration_json.get("embedding_function")
    if saved is None or not has_function(saved):
        raise ConfigError(
            f"Collection {collection.name!r} has no embedding function, so a text cannot be compared with its vectors. "
            "Query it from a program, with vectors of the model that made those stored."
        )
    dimension = collection.get_model()["dimension"]
    if dimension is None:
        return Hits(())
    [made] = build_function(saved).embed_query([text])
    vector = read_vector(made)
    check_query_vectors([vector])
    if vector.size != dimension:
        raise DimensionMismatch(
            f"Collection {collection.name!r} stores {dimension}-d vectors, and its own function makes {vector.size}-d "
            "ones. Its settings were changed after it was filled; set them back with the collection's `modify`.",
            expected=dimension,
            got=vector.size,
        )
    queries: Any = [vector]
    filters: Any = dict(where) if where else None
    try:
        found = collection.query(
            query_embeddings=queries,
            n_results=n_results,
            where=filters,
            include=["documents", "metadatas", "distances", "uris"],
        )
    except ValueError as error:  # of Chroma's own check of the filter; all else was checked above
        raise InputError(f"Chroma takes no such filter as {where!r}: {error}") from error
    [hits] = read_results(found, space_of(collection))
    return hits

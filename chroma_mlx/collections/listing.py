"""What collections there are, how their vectors were made, and what about them does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ..config import resolve
from ..errors import ChromaMLXError
from ..functions import MLXEmbeddingFunction
from ..router.embedders import MLXEmbedder
from ..router.matching import read_fingerprint
from ..router.target import space_of
from .saved_function import build_function, function_in_words, has_function

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

COLLECTIONS_A_CALL: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """A collection in plain values. `dimension` is None while it is empty; `warnings` are sentences."""

    name: str
    records: int
    dimension: int | None
    space: str
    function: str
    model: str | None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "warnings": list(self.warnings)}


def list_collections(client: ClientAPI) -> list[CollectionInfo]:
    """Every collection of the client, by name. No model is loaded and nothing is fetched."""
    return sorted((describe(collection) for collection in _all(client)), key=lambda info: info.name)


def _all(client: ClientAPI) -> Iterator[Collection]:
    offset = 0
    while found := client.list_collections(limit=COLLECTIONS_A_CALL, offset=offset):
        yield from found
        offset += len(found)


def describe(collection: Collection) -> CollectionInfo:
    """One collection."""
    saved = collection.configuration_json.get("embedding_function")
    function, model = function_in_words(saved)
    records, dimension = collection.count(), collection.get_model()["dimension"]
    return CollectionInfo(
        name=collection.name,
        records=records,
        dimension=dimension,
        space=space_of(collection),
        function=function,
        model=model,
        warnings=tuple(_warnings(collection.name, dimension, saved, collection.metadata)),
    )


def _warnings(
    name: str, dimension: int | None, saved: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None
) -> Iterator[str]:
    try:
        stored = read_fingerprint(name, metadata)
    except ChromaMLXError as error:
        yield str(error)
        stored = None
    if stored is not None and dimension not in (None, stored.get("dimension")):
        yield f"Its fingerprint is of {stored.get('dimension')}-d vectors, and it stores {dimension}-d ones."
    if saved is None or not has_function(saved):
        yield "No embedding function is saved with it: it takes vectors, and Chroma has its default model embed texts."
        return
    try:
        function = build_function(saved)
        if isinstance(function, MLXEmbeddingFunction):
            yield from _model_warnings(function, saved, stored, dimension)
    except ChromaMLXError as error:
        yield str(error)


def _model_warnings(
    function: MLXEmbeddingFunction,
    saved: Mapping[str, Any],
    stored: Mapping[str, Any] | None,
    dimension: int | None,
) -> Iterator[str]:
    settings = function.get_config()
    embedder = MLXEmbedder(resolve(None, {**settings, "mode": "mlx"}).config)
    if embedder.checkpoint() is None:
        yield (
            f"The model {settings['model_name']!r} is not on this disk. `chroma-mlx models download "
            f"{settings['model_name']}` fetches it."
        )
    elif stored is not None and (differences := embedder.differences(saved.get("config") or {}, stored, load=False)):
        fields = ", ".join(f"{key} was {was!r} and is {now!r}" for key, (was, now) in differences.items())
        yield f"The model on this disk makes other vectors than those stored: {fields}."
    width = embedder.width()
    if None not in (width, dimension) and width != dimension:
        yield f"Its function makes {width}-d vectors, and it stores {dimension}-d ones."

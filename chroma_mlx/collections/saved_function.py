"""The function saved with a collection: built here, or in words why it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigError
from ..functions import MLXEmbeddingFunction, MockEmbeddingFunction, RemoteEmbeddingFunction, UserProvidedFunction
from ..router.matching import NO_FUNCTION

if TYPE_CHECKING:
    from chromadb.api.types import Documents, EmbeddingFunction

# Built here whatever other program has registered another class under the name.
OWN = {
    function.NAME: function
    for function in (MLXEmbeddingFunction, MockEmbeddingFunction, RemoteEmbeddingFunction, UserProvidedFunction)
}


def has_function(saved: Mapping[str, Any] | None) -> bool:
    """Whether `saved`, the `embedding_function` of a configuration, names a function."""
    return bool(saved and saved.get("name") not in (None, NO_FUNCTION) and saved.get("type") != "legacy")


def build_function(saved: Mapping[str, Any]) -> EmbeddingFunction[Documents]:
    """The function that `saved` describes. Raises ConfigError with the reason when it cannot be built here."""
    from chromadb.utils.embedding_functions import known_embedding_functions

    name = str(saved.get("name"))
    known: Any = OWN.get(name) or known_embedding_functions.get(name)
    if known is None:
        raise ConfigError(
            f"The embedding function {name!r} is not known here: it is neither Chroma's nor of this package. Use the "
            "program that made the collection, which registers it."
        )
    try:
        return cast("EmbeddingFunction[Documents]", known.build_from_config(dict(saved.get("config") or {})))
    except Exception as error:  # a function of others may raise anything: a package or a key that is missing
        raise ConfigError(f"The embedding function {name!r} cannot be built here: {error}") from error


def function_in_words(saved: Mapping[str, Any] | None) -> tuple[str, str | None]:
    """The function's name, and the model's where its configuration has one."""
    if not has_function(saved) or saved is None:
        return NO_FUNCTION, None
    config = saved.get("config") or {}
    model = config.get("model_name") or config.get("model")
    return str(saved.get("name")), None if model is None else str(model)

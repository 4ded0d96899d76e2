"""Opens a collection, or makes it: nothing is made before all is checked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from chromadb.api.types import VectorIndexConfig
from chromadb.errors import NotFoundError

from ..errors import ConfigError, DimensionMismatch
from ..rules import FLAG, refusals
from .embedders import Embedder
from .matching import check_mode, check_vectors, function_of, with_fingerprint
from .report import UsageCounter
from .steps import Call, Steps
from .target import Target


def open_target(
    client: Any,
    name: str,
    embedder: Embedder,
    usage: UsageCounter,
    *,
    create: bool,
    same_space: bool,
    arguments: Mapping[str, Any],
) -> Steps[Target]:
    """The collection `name`, made with the embedder's function if there is none and `create` allows it.

    Raises CollectionMismatch when it was made in another mode or with other settings, DimensionMismatch when
    its vectors have another width, ConfigError for arguments that cannot go together, chromadb's
    NotFoundError without `create`, and ModelNotFound for a model that does not exist.
    """
    if refused := refusals({"same_space": same_space}, {"same_space": FLAG}):
        raise ConfigError(refused[0][1])
    _check_arguments(client, arguments)
    # Before anything is made: a name without a model behind it fails here.
    own = yield Call(embedder.fingerprint, {"load": False}, computes=True)
    try:
        handle = yield Call(client.get_collection, {"name": name})
    except NotFoundError:
        if not create:
            raise
        yield Call(client.create_collection, {"name": name, **_creation(embedder, own, arguments)})
        handle = yield Call(client.get_collection, {"name": name})
    else:
        if arguments.get("get_or_create") is False:
            raise ConfigError(
                f"Collection {name!r} exists, and get_or_create=False asks for a new one. Use another name."
            )
    configuration = handle.configuration_json
    check_mode(name, configuration, embedder, same_space=same_space)
    compared = {"configuration": configuration, "metadata": handle.metadata, "embedder": embedder}
    yield Call(check_vectors, {"name": name, **compared, "load": False, "same_space": same_space}, computes=True)
    width, own_width = handle.get_model()["dimension"], embedder.width()
    if width is not None and own_width is not None and width != own_width:
        raise DimensionMismatch(
            f"Collection {name!r} stores {width}-d vectors, but this configuration makes {own_width}-d ones. A "
            f"collection keeps the width of its first vector. Set `dimension: {width}` if the model has that width, "
            "or use another collection.",
            expected=width,
            got=own_width,
        )
    same_function = function_of(configuration) == embedder.function.name()
    chroma = yield Call(
        client.get_collection,
        {"name": name, "embedding_function": embedder.function} if same_function else {"name": name},
    )
    return Target(client=client, chroma=chroma, embedder=embedder, usage=usage, same_space=same_space, width=width)


def _check_arguments(client: Any, arguments: Mapping[str, Any]) -> None:
    configuration = arguments.get("configuration") or {}
    if "embedding_function" in arguments or configuration.get("embedding_function") is not None:
        raise ConfigError(
            "embedding_function was passed, but the router gives the collection its own. Leave it out, or make the "
            "collection with the client itself."
        )
    known = [name for name in inspect.signature(client.create_collection).parameters if name != "name"]
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ConfigError(
            f"create_collection of this client has no argument {unknown[0]!r}. It has {', '.join(known)}."
        )


def _creation(embedder: Embedder, own: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of create_collection: the user's, the function, and the fingerprint if it is known already."""
    # Another process may make it at the same time: whoever comes second opens it, and checks it as any other.
    given = {**arguments, "get_or_create": arguments.get("get_or_create", True)}
    if given.get("configuration") is not None:
        given["configuration"] = dict(given["configuration"])  # Chroma puts the function into it
    if own is not None:
        given["metadata"] = with_fingerprint(given.get("metadata"), own)
    schema = given.get("schema")
    if schema is None:
        return {**given, "embedding_function": embedder.function}
    # Chroma takes no function beside a schema: it goes into the schema's index of vectors.
    schema = copy.deepcopy(schema)
    index = schema.keys["#embedding"].float_list.vector_index.config
    values = {name: value for name, value in dict(index).items() if value is not None and name != "source_key"}
    values["embedding_function"] = embedder.function
    schema.create_index(config=VectorIndexConfig(**{"space": embedder.function.default_space(), **values}))
    return {**given, "schema": schema, "embedding_function": None}

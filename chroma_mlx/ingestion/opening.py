"""Opens what an ingest writes to: the collection, or the one that is to take its place when the model is another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from chromadb.errors import NotFoundError

from ..config import EmbeddingConfig
from ..errors import CollectionMismatch, ConfigError, DimensionMismatch
from ..router import RoutedCollection
from ..router.matching import FINGERPRINT_KEY, read_fingerprint
from ..router.opening import open_target
from ..router.report import UsageCounter
from ..router.steps import run
from ..router.target import SPACE_KEY, Target, space_of
from .making import FunctionMaker, Maker, RouterMaker, function_of_handle, maker_of, maker_of_config, maker_of_embedder

# In a collection's metadata: what the last complete ingest left, "" while one is under way.
MARK: Final = "chroma_mlx:ingested"
# That a collection is complete, and only waits to be given the name of the one that it replaces.
READY: Final = "chroma_mlx:ready"
SPEC_CHARACTERS: Final = 8


@dataclass(slots=True, kw_only=True)
class Opened:
    """The collection to write to. `old` is the one that it will take the place of, None for none.

    `client` is None where only a collection was given: then nothing is switched, and no journal is kept.
    """

    name: str
    client: Any | None
    chroma: Any
    maker: Maker
    target: Target | None = None
    old: Any | None = None

    @property
    def space(self) -> str:
        """How Chroma compares its vectors."""
        return space_of(self.chroma)

    def settle(self) -> None:
        """Before the first text: loads the model, and holds it to what made the stored vectors."""
        if self.target is not None:
            run(self.target.settle())

    def sign(self) -> None:
        """With the first text: stores what makes the vectors."""
        if self.target is not None:
            run(self.target.sign())


def find(client: Any, name: str) -> Any | None:
    """The collection, opened without its function; None where there is none."""
    try:
        return client.get_collection(name)
    except NotFoundError:
        return None


def metadata_now(client: Any | None, chroma: Any) -> Mapping[str, Any]:
    """A collection's metadata as they are stored; a handle keeps those of the moment in which it was opened."""
    if client is not None:
        return client.get_collection(chroma.name).metadata or {}
    find_by_id = getattr(getattr(chroma, "_client", None), "get_collection_by_id", None)
    if find_by_id is None:  # no collection of Chroma's own
        return getattr(chroma, "metadata", None) or {}
    return find_by_id(chroma.id, tenant=chroma.tenant, database=chroma.database).metadata or {}


def amend(client: Any | None, chroma: Any, changes: Mapping[str, Any], *, name: str | None = None) -> None:
    """Changes a collection's name, where one is given, and then keys of its metadata as they are stored now."""
    if name is not None:
        chroma.modify(name=name)
    metadata = {key: value for key, value in metadata_now(client, chroma).items() if key != SPACE_KEY}
    chroma.modify(metadata={**metadata, **changes})


def open_given(collection: Any, client: Any | None, *, beside: bool) -> Opened:
    """A collection that the caller has opened: Chroma's, or the router's; for `beside` see `maker_of_config`.

    Raises ConfigError when it is neither, or embeds no text.
    """
    if isinstance(collection, RoutedCollection):
        target = collection.target
        if not target.embedder.embeds_documents:
            maker_of(None)
        maker = maker_of_embedder(target.embedder, beside=beside)
        if maker.embedder is not target.embedder:
            target = replace(target, embedder=maker.embedder)
        return Opened(name=target.name, client=target.client, chroma=target.chroma, maker=maker, target=target)
    if not callable(getattr(collection, "upsert", None)) or not callable(getattr(collection, "get", None)):
        raise ConfigError(
            f"The collection is a {type(collection).__name__}. Pass a collection of Chroma's or the router's, or its "
            "name with `client=`."
        )
    by_function = maker_of(function_of_handle(collection), beside=beside)
    return Opened(name=str(collection.name), client=client, chroma=collection, maker=by_function)


def find_maker(
    client: Any, name: str, config: EmbeddingConfig, *, asked: bool, beside: bool, function: Any | None = None
) -> RouterMaker | FunctionMaker:
    """Who embeds for the collection `name`, which need not be there and is not made.

    With `asked` the configuration, or `function`, is what it is to be embedded by. Without, an existing one keeps its
    function. For `beside` see `maker_of_config`. Raises ConfigError.
    """
    there = find(client, name)
    if there is not None and function is None and not asked:
        function = _function_of(there, name)
    if function is None:
        return maker_of_config(config, beside=beside)
    return maker_of(function, beside=beside)


def open_named(client: Any, name: str, maker: RouterMaker | FunctionMaker) -> Opened:
    """The collection `name`, made if there is none.

    Where it was made by another than `maker`, what is returned is the collection that will take its place.
    Raises ConfigError, ModelNotFound, and CollectionMismatch where a damaged collection cannot be compared.
    """
    there = find(client, name)
    if isinstance(maker, RouterMaker):
        return _open_routed(client, name, maker, there)
    return _open_plain(client, name, maker, there)


def open_beside(
    client: Any,
    name: str,
    old: Any,
    config: EmbeddingConfig,
    *,
    asked: bool,
    function: Any | None = None,
    beside: bool = True,
) -> Opened:
    """The collection `name` for what `old` has, made if there is none, with `old`'s metadata and way to compare.

    `asked`, `function`, `beside` and `config` as for `find_maker`. Raises CollectionMismatch or DimensionMismatch where
    it is there, and was made by another function than the one that is asked for; ConfigError, ModelNotFound.
    """
    maker = find_maker(client, name, config, asked=asked, beside=beside, function=function)
    there = find(client, name)
    if isinstance(maker, RouterMaker):
        _know(maker)
        return _routed(client, name, maker, _inherited(old) if there is None else {})
    function = maker.function
    if there is None:
        there = client.create_collection(name, embedding_function=function, **_inherited(old))
    elif not _made_by(there, function):
        saved = there.configuration_json["embedding_function"]
        raise CollectionMismatch(
            f"Collection {name!r} is there, and not {maker.name} but {saved['name']!r} made its vectors, or the same "
            "with other settings. Give the new collection a name of its own, or name the function of this one.",
            differences={"embedding_function": (saved, _saved_form(function))},
        )
    return Opened(name=name, client=client, chroma=there, maker=maker)


def _open_routed(client: Any, name: str, maker: RouterMaker, there: Any | None) -> Opened:
    _know(maker)
    if there is not None:
        read_fingerprint(name, there.metadata)  # a damaged one is not that of another model
        try:
            return _routed(client, name, maker, {})
        except (CollectionMismatch, DimensionMismatch):
            pass
        next_name = f"{name}.next-{_spec_of(maker)}"
        opened = _routed(client, next_name, maker, _inherited(there))
        opened.old, opened.name = there, name
        return opened
    return _routed(client, name, maker, {})


def _function_of(there: Any, name: str) -> Any:
    """What a collection's documents are embedded by. Raises ConfigError where that is nothing, or cannot be made."""
    try:
        function = function_of_handle(there)
    except ValueError as error:  # Chroma's, for one that it does not know or cannot build
        raise ConfigError(f"The embedding function of collection {name!r} cannot be made: {error}") from error
    if function is None:
        raise ConfigError(
            f"Collection {name!r} has no embedding function, so nobody knows how to embed for it. Name the model "
            "that made its vectors (if another made them, all is embedded again, into a new collection)."
        )
    return function


def _know(maker: RouterMaker) -> None:
    """Makes sure that what the vectors are made by is known: without, nothing could be compared."""
    if maker.embedder.fingerprint(load=False) is None:
        # Not on this disk, or the mock: what a model that is not here makes of its settings is not known.
        maker.embedder.fingerprint(load=True)


def _routed(client: Any, name: str, maker: RouterMaker, arguments: Mapping[str, Any]) -> Opened:
    steps = open_target(
        client, name, maker.embedder, UsageCounter(), create=True, same_space=False, arguments=arguments
    )
    target = run(steps)
    return Opened(name=name, client=client, chroma=target.chroma, maker=maker, target=target)


def _open_plain(client: Any, name: str, maker: FunctionMaker, there: Any | None) -> Opened:
    function = maker.function
    if there is None:
        chroma = client.create_collection(name, embedding_function=function)
        return Opened(name=name, client=client, chroma=chroma, maker=maker)
    if _made_by(there, function):
        return Opened(name=name, client=client, chroma=there, maker=maker)
    next_name = f"{name}.next-{_spec_of(maker)}"
    chroma = find(client, next_name) or client.create_collection(
        next_name, embedding_function=function, **_inherited(there)
    )
    return Opened(name=name, client=client, chroma=chroma, maker=maker, old=there)


def _inherited(old: Any) -> dict[str, Any]:
    """What a collection takes over from the one that it replaces: metadata, and how it compares vectors."""
    dropped = (FINGERPRINT_KEY, MARK, READY, SPACE_KEY)
    metadata = {key: value for key, value in (old.metadata or {}).items() if key not in dropped}
    return {
        **({"metadata": metadata} if metadata else {}),
        "configuration": {"hnsw": {"space": space_of(old)}},
    }


def _made_by(chroma: Any, function: Any) -> bool:
    """Whether a collection names this function, or none."""
    saved = chroma.configuration_json.get("embedding_function") or {}
    own = _saved_form(function)
    return not saved.get("name") or (saved["name"], saved.get("config")) == (own["name"], own["config"])


def _saved_form(function: Any) -> dict[str, Any]:
    """A function's name and configuration, as Chroma saves them."""
    try:
        return {"name": function.name(), "config": json.loads(json.dumps(function.get_config()))}
    except (AttributeError, NotImplementedError, TypeError):  # a function of the old kind has neither
        return {"name": type(function).__name__, "config": {}}


def _spec_of(maker: RouterMaker | FunctionMaker) -> str:
    """Of everything that determines the vectors, a few characters: the same in every run."""
    if isinstance(maker, RouterMaker):
        made_by = maker.embedder.fingerprint(load=False)
        found = _saved_form(maker.embedder.function) if made_by is None else made_by.to_dict() | {"model": ""}
    else:
        found = _saved_form(maker.function)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:SPEC_CHARACTERS]


def heal(client: Any, name: str) -> None:
    """Ends a switch that was interrupted between its two renamings."""
    there = find(client, name)
    if there is not None:
        if (there.metadata or {}).get(READY):
            amend(client, there, {READY: False})
        return
    for handle in client.list_collections():
        if handle.name.startswith(f"{name}.next-") and (handle.metadata or {}).get(READY):
            amend(client, handle, {READY: False}, name=name)
            return


def switch(opened: Opened) -> str:
    """Gives the new collection the name of the old one, which is kept; returns the name that it has now.

    Whatever moment this ends at, either the name leads to a complete collection or `heal` makes it.
    """
    before = f"{opened.name}.before-{str(opened.old.id)[:SPEC_CHARACTERS]}" if opened.old is not None else ""
    if opened.client is None or opened.old is None:
        return before
    amend(opened.client, opened.chroma, {READY: True})
    if opened.old.name != before:
        opened.old.modify(name=before)
    amend(opened.client, opened.chroma, {READY: False}, name=opened.name)
    return before

"""`ingest`: the call, and what it takes."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import ConfigSource, EmbeddingConfig, resolve
from ..config.sources import DEFAULT
from ..database import Folder, Server
from ..disk import disk_errors
from ..errors import ConfigError, InputError
from ..settings import VectorSettings
from .making import Maker, maker_of, maker_of_config
from .opening import Opened, find_maker, heal, open_given, open_named
from .readers.rows import Columns
from .rejects import Rejects
from .report import IngestResult
from .run import Crew, Ingest, Options, make_cutter
from .sources import Sources


@disk_errors()
def ingest(
    records: Iterable[Any] | str | os.PathLike[str],
    collection: Any,
    *,
    client: Any | None = None,
    model: str | None = None,
    embedding_function: Any | None = None,
    config: ConfigSource = None,
    text_column: str = "text",
    id_column: str | None = None,
    format: str | None = None,
    globs: Sequence[str] = (),
    base: str | os.PathLike[str] | None = None,
    source: str = "records",
    passage_tokens: int | None = None,
    overlap_tokens: int | None = None,
    sync: bool = False,
    recheck: bool = False,
    rejects: str | os.PathLike[str] | None = None,
    retry_seconds: float = 300.0,
    show_progress: bool | None = None,
    crew: Crew | None = None,
) -> IngestResult:
    """Puts files or records into a collection: what is new or edited is embedded, what is unchanged is not.

    docs/ingest.md says what each argument does. `records` are a path or several (pathlib's, files or folders),
    or any iterable of texts, of mappings with a column for the text, or of the router's Records, read as it
    goes. `collection` is one of Chroma's or the router's, or a name with `client`, and then `model`, `config`
    or `embedding_function` say what embeds it. `client` may be a Folder or Server of chroma_mlx.database, opened when
    all else is checked. `crew` is who does the work instead of this process: chroma_mlx.ray's.

    Raises InputError and ConfigError before anything is written, IngestStopped, DiskFull, CollectionChanged,
    DimensionMismatch, CollectionMismatch, MissingPackage, and what the embedding function or the iterable raises.
    """
    given = _given(
        records,
        format=format,
        globs=tuple(globs),
        base=None if base is None else Path(base),
        skip=None if rejects is None else Path(rejects),
    )
    options = Options(
        columns=_columns(text_column, id_column, in_memory=not isinstance(given, Sources)),
        source=source,
        passage_tokens=passage_tokens,
        overlap_tokens=overlap_tokens,
        sync=sync,
        recheck=recheck,
        rejects=None if rejects is None else Path(rejects),
        retry_seconds=retry_seconds,
        show_progress=show_progress,
    )
    noted = Rejects(options.rejects)
    by: dict[str, Any] = {"model": model, "function": embedding_function, "config": config}
    with _opened(client, options, **by) as client:
        # Workers of others are processes of their own already.
        maker, opening = _maker(collection, client, beside=crew is None, **by)
        cutter = make_cutter(maker, options)  # all that may be refused comes before a collection is made
        return Ingest(given, opening(), options, cutter=cutter, rejects=noted, crew=crew).run()


def _given(records: Any, **reading: Any) -> Sources | Iterable[Any]:
    """Files and folders, where paths were given; else the records. Raises InputError where they are neither."""
    if isinstance(records, str | os.PathLike):
        if not os.fspath(records):
            raise InputError("The path of the records is empty. Pass that of a file or a folder.")
        records = [Path(records)]
    if isinstance(records, list | tuple) and records and all(isinstance(each, os.PathLike) for each in records):
        return Sources(named=tuple(os.fspath(path) for path in records), **reading)
    if not isinstance(records, Iterable):
        raise InputError(f"The records are a {type(records).__name__}. Pass paths, or an iterable of records.")
    return records


def _columns(text: str, id: str | None, *, in_memory: bool) -> Columns:
    """Records in memory have an id of their own where they bring one."""
    optional = in_memory and id is None
    return Columns(text=text, id="id" if optional else id, id_optional=optional)


@contextmanager
def _opened(
    client: Any | None, options: Options, *, model: str | None, function: Any, config: ConfigSource
) -> Iterator[Any | None]:
    """The client, where one was given; else that of a place, closed in the end.

    No database is made for a model or for passages that a new collection cannot have: raises what they raise.
    """
    if not isinstance(client, Folder | Server):
        yield client
        return
    if isinstance(client, Folder) and not client.is_there():
        plain, _ = resolved(client, model, function, config)
        make_cutter(maker_of_config(plain) if function is None else maker_of(function), options)
    with client.opened(create=True) as opened:
        yield opened


def _maker(
    collection: Any, client: Any | None, *, beside: bool, model: str | None, function: Any, config: ConfigSource
) -> tuple[Maker, Callable[[], Opened]]:
    """Who embeds, and what opens the collection, which it makes if there is none."""
    if not isinstance(collection, str):
        if model is not None or function is not None or config is not None:
            raise ConfigError(
                "A model was named beside a collection that is open already, with its own. Pass the collection's name "
                "and `client=` to choose the model."
            )
        opened = open_given(collection, client, beside=beside)
        return opened.maker, lambda: opened
    if client is None:
        raise ConfigError(f"The collection {collection!r} was given by its name alone. Pass `client=` too.")
    plain, asked = resolved(client, model, function, config)
    heal(client, collection)
    maker = find_maker(client, collection, plain, asked=asked, beside=beside, function=function)
    return maker, lambda: open_named(client, collection, maker)


def resolved(client: Any, model: str | None, function: Any, config: ConfigSource) -> tuple[EmbeddingConfig, bool]:
    """The configuration to embed by, without a bar of its own, and whether anybody asked for it.

    Raises ConfigError for an asynchronous client, for a model beside a function, and what a configuration raises.
    """
    if inspect.iscoroutinefunction(getattr(client, "get_collection", None)):
        raise ConfigError(
            "This client is asynchronous. Pass a plain one, and call ingest in a thread: asyncio.to_thread."
        )
    if function is not None and (model is not None or config is not None):
        raise ConfigError("Both a model and an embedding_function were given. Pass one or the other.")
    effective = resolve(config, {} if model is None else {"model_name": model})
    decisive = ["mode", *(each.name for each in dataclasses.fields(VectorSettings))]
    asked = function is not None or any(effective.sources[name] != DEFAULT for name in decisive)
    return dataclasses.replace(effective.config, show_progress=False), asked

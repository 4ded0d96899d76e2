"""`ingest`: the call, and what it takes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..config import ConfigSource, resolve
from ..config.sources import DEFAULT
from ..errors import ConfigError, InputError
from ..settings import VectorSettings
from .opening import Opened, open_given, open_named
from .readers.rows import Columns
from .report import IngestResult
from .run import Ingest, Options
from .sources import Sources, check_named


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
) -> IngestResult:
    """Puts files or records into a collection: what is new or edited is embedded, what is unchanged is not.

    Args:
        records: a path or several (pathlib's, files or folders), or any iterable of texts, of mappings with a
            column for the text, or of the router's Records. It is read as it goes, never held.
        collection: a collection of Chroma's or the router's, or the name of one with `client`.
        model, embedding_function, config: what is to embed a collection given by name; without any, an existing
            one keeps its own. Where another made its vectors all is embedded anew, into a new collection that
            takes the name at the end.
        text_column, id_column: of records; the others become metadata. Without `id_column` an id is made of the
            source and the place in it (of mappings in memory: "id", where there is one).
        format, globs: how files are read, and which of a folder; known by their endings otherwise.
        base: the folder that sources are named from; else by their absolute paths.
        source: the name of records in memory as a source.
        passage_tokens, overlap_tokens: longest passage (512, or what the model takes) and what it shares with
            the one before (an eighth).
        sync: deletes what an earlier ingest put there from these sources and is not in them any more.
        recheck: compares with what is stored even where this machine remembers that nothing changed.
        rejects: a file for what was refused, as JSON lines; replaced by the first of a run.
        retry_seconds: how long a server may be away.
        show_progress: None shows a bar on a terminal.

    Raises InputError and ConfigError before anything is written, IngestStopped when the database fails,
    DimensionMismatch, CollectionMismatch, MissingPackage, and what the embedding function raises.
    """
    if isinstance(records, str | os.PathLike):
        records = [Path(records)]
    paths = isinstance(records, list | tuple) and bool(records) and all(isinstance(x, os.PathLike) for x in records)
    given: Any = records
    if paths:
        named = check_named([os.fspath(path) for path in records])
        folder = None if base is None else Path(base)
        skip = None if rejects is None else Path(rejects)
        given = Sources(named=named, format=format, globs=tuple(globs), base=folder, skip=skip)
    elif not isinstance(records, Iterable):
        raise InputError(f"The records are a {type(records).__name__}. Pass paths, or an iterable of records.")
    if not retry_seconds >= 0:
        raise ConfigError(f"retry_seconds is {retry_seconds!r}, which is not allowed. Set it to 0 or more.")
    columns = Columns(text=text_column, id=id_column)
    if not paths and id_column is None:
        columns = Columns(text=text_column, id="id", id_optional=True)
    options = Options(
        columns=columns,
        source=source,
        passage_tokens=passage_tokens,
        overlap_tokens=overlap_tokens,
        sync=sync,
        recheck=recheck,
        rejects=None if rejects is None else Path(rejects),
        retry_seconds=retry_seconds,
        show_progress=show_progress,
    )
    opened = _open(collection, client, model=model, function=embedding_function, config=config)
    return Ingest(given, opened, options).run()


def _open(collection: Any, client: Any | None, *, model: str | None, function: Any, config: ConfigSource) -> Opened:
    if not isinstance(collection, str):
        if model is not None or function is not None or config is not None:
            raise ConfigError(
                "A model was named beside a collection that is open already, with its own. Pass the collection's name "
                "and `client=` to choose the model."
            )
        return open_given(collection, client)
    if client is None:
        raise ConfigError(f"The collection {collection!r} was given by its name alone. Pass `client=` too.")
    if function is not None and (model is not None or config is not None):
        raise ConfigError("Both a model and an embedding_function were given. Pass one or the other.")
    effective = resolve(config, {} if model is None else {"model_name": model})
    decisive = ["mode", *(each.name for each in dataclasses.fields(VectorSettings))]
    asked = function is not None or any(effective.sources[name] != DEFAULT for name in decisive)
    plain = dataclasses.replace(effective.config, show_progress=False)
    return open_named(client, collection, plain, asked=asked, function=function)

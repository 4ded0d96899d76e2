"""A write: all records checked, what has no vector embedded in one batch, then all written."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import DimensionMismatch, InputError, PartialWrite, RecordError, RecordProblem, TextTooLong
from .record import Columns, Method, RecordLike, read_records, select
from .report import WriteResult
from .steps import Call, Steps
from .target import Target
from .vectors import vector_problems

# Ids looked up in a call: well below the variables of an SQL statement.
IDS_A_CALL = 5_000


def write(target: Target, method: Method, records: Iterable[RecordLike]) -> Steps[WriteResult]:
    """Adds, upserts or updates `records`; see the methods of RoutedCollection."""
    started = time.perf_counter()
    columns = read_records(records, method, embeds=target.embedder.embeds_documents)
    width = yield from _expected_width(target, columns)
    _check_vectors(target, columns, width)
    _raise(columns)
    existing = yield from _find_existing(target, columns, method)
    _raise(columns)
    embedded = [
        place for place in range(len(columns)) if columns.vectors[place] is None and columns.texts[place] is not None
    ]
    provided = sum(vector is not None for vector in columns.vectors)
    tokens = 0
    if embedded:
        yield from target.settle()
        own = target.embedder.width()  # known now, whatever it was before the model was loaded
        if width is not None and own is not None and width != own:
            raise _mismatch(target, width, own)
        tokens = yield from _embed(target, columns, embedded)
        yield from target.sign()
    yield from _store(target, method, columns)
    result = WriteResult(
        inserted=len(columns) - existing,
        updated=existing,
        embedded=len(embedded),
        provided=provided,
        tokens=tokens,
        milliseconds=(time.perf_counter() - started) * 1000,
    )
    target.usage.add(
        writes=1,
        inserted=result.inserted,
        updated=result.updated,
        embedded=result.embedded,
        provided=result.provided,
        tokens=tokens,
        milliseconds=result.milliseconds,
    )
    return result


def _expected_width(target: Target, columns: Columns) -> Steps[int | None]:
    """The width that every vector of the call must have; None when the call has none, and nothing says."""
    stored = yield from target.find_width()
    own = target.embedder.width()
    if stored is not None and own is not None and stored != own:
        raise _mismatch(target, stored, own)
    first = next((vector.size for vector in columns.vectors if vector is not None), None)
    return stored or own or first


def _mismatch(target: Target, width: int, own: int) -> DimensionMismatch:
    return DimensionMismatch(
        f"Collection {target.name!r} stores {width}-d vectors, but this configuration makes {own}-d ones. Set "
        f"`dimension: {width}` if the model has that width, or use another collection. Nothing was written.",
        expected=width,
        got=own,
    )


def _check_vectors(target: Target, columns: Columns, width: int | None) -> None:
    places = [place for place, vector in enumerate(columns.vectors) if vector is not None]
    if width is not None and places:
        vectors = [vector for vector in columns.vectors if vector is not None]
        normalized = target.embedder.normalized
        for place, reason in vector_problems(vectors, width, target.space, normalized=normalized):
            columns.refuse(places[place], f"{reason}.")


def _raise(columns: Columns) -> None:
    if columns.problems:
        raise RecordError(sorted(columns.problems, key=lambda problem: problem.index), total=len(columns))


def _find_existing(target: Target, columns: Columns, method: Method) -> Steps[int]:
    """How many of the records are in the collection; `add` refuses these, and `update` the others.

    Chroma itself ignores both in silence.
    """
    existing: set[str] = set()
    for start in range(0, len(columns), IDS_A_CALL):
        part = columns.ids[start : start + IDS_A_CALL]
        found = yield Call(target.chroma.get, {"ids": part, "include": []})
        existing.update(found["ids"])
    for place, id in enumerate(columns.ids):
        if method == "add" and id in existing:
            columns.refuse(place, "it is in the collection already. Use upsert to replace it.")
        elif method == "update" and id not in existing:
            columns.refuse(place, "it is not in the collection. Use upsert to add it.")
    return len(existing)


def _embed(target: Target, columns: Columns, places: Sequence[int]) -> Steps[int]:
    """Embeds the texts at `places` into their rows; returns the tokens. Errors name the record, not the text."""
    texts = [columns.texts[place] for place in places]
    try:
        embedded = yield from target.embed(texts, "document")
    except TextTooLong as error:
        place = places[error.index or 0]
        reason = (
            f"its text has {error.tokens} tokens, but the limit is {error.limit}, and on_long_text='error' forbids "
            "cutting it. Split it, raise max_tokens, or use on_long_text='truncate'."
        )
        raise RecordError([RecordProblem(place, columns.ids[place], reason)], total=len(columns)) from error
    except InputError as error:
        if error.index is None:
            raise
        place = places[error.index]
        raise RecordError([RecordProblem(place, columns.ids[place], str(error))], total=len(columns)) from error
    for place, vector in zip(places, embedded.vectors, strict=True):
        columns.vectors[place] = vector
    return int(embedded.tokens)


def _store(target: Target, method: Method, columns: Columns) -> Steps[None]:
    """Writes the records in the order of the call; a call of Chroma's has vectors for all its rows or for none."""
    size = yield from target.find_max_batch()
    written = 0
    for has_vector, run in itertools.groupby(range(len(columns)), lambda place: columns.vectors[place] is not None):
        places = list(run)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            try:
                yield Call(getattr(target.chroma, method), _arguments(columns, part, has_vector))
            except Exception as error:
                if written == 0:
                    raise
                reason = f"{type(error).__name__}: {error}"
                raise PartialWrite(written=written, total=len(columns), method=method, reason=reason) from error
            written += len(part)


def _arguments(columns: Columns, places: Sequence[int], has_vector: bool) -> dict[str, Any]:
    vectors = [np.ascontiguousarray(columns.vectors[place]) for place in places] if has_vector else None
    return {
        "ids": [columns.ids[place] for place in places],
        "embeddings": vectors,
        "documents": select(columns.texts, places),
        "metadatas": select(columns.metadatas, places),
        "uris": select(columns.uris, places),
    }

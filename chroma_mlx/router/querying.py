"""A query: by texts or by vectors, checked against the collection before any model runs."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from ..errors import DimensionMismatch, InputError
from ..rules import shown
from ..texts import check_texts
from .results import Hits, read_results
from .steps import Call, Steps
from .target import Target
from .vectors import check_query_vectors, read_vector

MOST_RESULTS = 2**31 - 1
INCLUDE = ("documents", "metadatas", "distances", "uris")


def query(
    target: Target,
    texts: Sequence[str] | None,
    vectors: Iterable[npt.ArrayLike] | None,
    *,
    n_results: int,
    include_vectors: bool,
    filters: Mapping[str, Any],
) -> Steps[list[Hits]]:
    """The nearest records of each text or vector; see the methods of RoutedCollection."""
    started = time.perf_counter()
    if (texts is None) == (vectors is None):
        raise InputError("A query needs a text or a vector, and one of them alone. Pass query('…') or query(vector=…).")
    if isinstance(filters["ids"], str):
        raise InputError("ids is one str, not a list of ids. Pass a list, also for a single id: ['…'].")
    n_results = _count(n_results)
    tokens = 0
    if texts is not None:
        texts = check_texts(texts)
        yield from _check_width(target, target.embedder.width(), "this configuration makes")
        if target.embedder.embeds_documents:
            yield from target.settle()
        embedded = yield from target.embed(texts, "query")
        rows, tokens = list(embedded.vectors), embedded.tokens
    else:
        rows = _read_vectors([] if vectors is None else vectors)
    check_query_vectors(rows)
    for row in rows:
        yield from _check_width(target, row.size, "the query's vector is one of")
    filters = {**filters, "ids": None if filters["ids"] is None else list(filters["ids"])}
    include = [*INCLUDE, "embeddings"] if include_vectors else list(INCLUDE)
    arguments = {"query_embeddings": rows, "n_results": n_results, "include": include, **filters}
    found = yield Call(target.chroma.query, arguments)
    target.usage.add(queries=len(rows), tokens=tokens, milliseconds=(time.perf_counter() - started) * 1000)
    return read_results(found, target.space)


def _count(given: object) -> int:
    """A number of results, of NumPy's kinds too. Raises InputError for any other."""
    try:
        number = 0 if isinstance(given, bool) else operator.index(given)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        number = 0
    if not 1 <= number <= MOST_RESULTS:
        raise InputError(f"n_results is {shown(given)}. Pass a whole number of 1 or more, up to {MOST_RESULTS:,}.")
    return number


def check_one_text(text: object) -> None:
    """Raises InputError for what is given in the place of one text and is none."""
    if text is not None and not isinstance(text, str):
        raise InputError(
            f"query takes one text, and got a {type(text).__name__}. Pass a str; query_batch takes a list of them, and "
            "query(vector=…) a vector."
        )


def _read_vectors(vectors: Iterable[npt.ArrayLike]) -> list[Any]:
    if isinstance(vectors, str | bytes) or not isinstance(vectors, Iterable):
        raise InputError(f"The vectors are of type {type(vectors).__name__}, not a list of vectors. Pass a list.")
    rows = []
    for place, vector in enumerate(vectors):
        try:
            rows.append(read_vector(vector))
        except ValueError as error:
            raise InputError(f"Query vector {place} {error}.", index=place) from error
    if not rows:
        raise InputError("There is no vector to query by: the list is empty. Pass at least one.")
    return rows


def _check_width(target: Target, width: int | None, whose: str) -> Steps[None]:
    stored = yield from target.find_width()
    if stored is not None and width is not None and stored != width:
        raise DimensionMismatch(
            f"Collection {target.name!r} stores {stored}-d vectors, but {whose} {width} dimensions. Query it with the "
            "model that made its vectors.",
            expected=stored,
            got=width,
        )

"""Thin wrappers over Chroma's collections: records in, typed results out, everything else Chroma's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from .querying import check_one_text, query
from .record import RecordLike
from .report import WriteResult
from .results import Hits
from .steps import Steps, run, run_async
from .target import Target
from .writing import write


class _Routed:
    """What both wrappers share: the collection itself, and all of it that is not replaced."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def chroma(self) -> Any:
        """Chroma's own collection, with its own `add`, `upsert`, `update` and `query`."""
        return self._target.chroma

    @property
    def target(self) -> Target:
        """What the methods work on: the collection, and who embeds for it."""
        return self._target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a copy or a pickle is made there is no target yet
            raise AttributeError(name)
        return getattr(self._target.chroma, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self._target.name!r}, function={self._target.embedder.function!r})"

    def _query(
        self,
        texts: Sequence[str] | None,
        vectors: Iterable[npt.ArrayLike] | None,
        *,
        n_results: int,
        include_vectors: bool,
        **filters: Any,
    ) -> Steps[list[Hits]]:
        return query(
            self._target, texts, vectors, n_results=n_results, include_vectors=include_vectors, filters=filters
        )


class RoutedCollection(_Routed):
    """A Chroma collection that takes records with text, vectors or both, checked before anything is written.

    `upsert`, `add`, `update` and `query` are the router's; every other attribute is Chroma's own, and
    `chroma` is the collection itself.

    A record is a Record or a dict with the keys id, text, vector, metadata, uri. Only what has no vector is
    embedded, all of it in one batch. Either the whole call is valid or nothing is written: RecordError names
    every bad record by its place and id, DimensionMismatch a configuration of another width. Only when the
    database itself fails midway is a part written; PartialWrite says how much.
    """

    def upsert(self, records: Iterable[RecordLike]) -> WriteResult:
        """Adds the records, and replaces those whose id is there already.

        As Chroma has it, a replaced record keeps the text, the uri and the metadata keys that are not given.
        """
        return run(write(self._target, "upsert", records))

    def add(self, records: Iterable[RecordLike]) -> WriteResult:
        """Adds the records; one whose id is there already is an error (Chroma's own `add` ignores it in silence)."""
        return run(write(self._target, "add", records))

    def update(self, records: Iterable[RecordLike]) -> WriteResult:
        """Changes records; an id that is not there is an error (Chroma's own `update` ignores it in silence).

        What is not given stays as it is; a new text without a vector is embedded. A metadata value of None
        takes the key away.
        """
        return run(write(self._target, "update", records))

    def query(
        self,
        text: str | None = None,
        *,
        vector: npt.ArrayLike | None = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        include_vectors: bool = False,
    ) -> Hits:
        """The `n_results` records nearest to a text or a vector, best first.

        `where`, `where_document` and `ids` narrow the search as they do in Chroma. Raises InputError,
        DimensionMismatch, VectorsOnly for text in mode 'user_provided', and what loading a model raises.
        """
        check_one_text(text)
        [hits] = run(
            self._query(
                None if text is None else [text],
                None if vector is None else [vector],
                n_results=n_results,
                include_vectors=include_vectors,
                where=where,
                where_document=where_document,
                ids=ids,
            )
        )
        return hits

    def query_batch(
        self,
        texts: Sequence[str] | None = None,
        *,
        vectors: Iterable[npt.ArrayLike] | None = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        include_vectors: bool = False,
    ) -> list[Hits]:
        """As `query`, for many texts or vectors at once: one Hits each, in their order."""
        return run(
            self._query(
                texts,
                vectors,
                n_results=n_results,
                include_vectors=include_vectors,
                where=where,
                where_document=where_document,
                ids=ids,
            )
        )

    def modify(
        self,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """Chroma's own `modify`; new metadata replaces the old, but for the fingerprint of the vectors."""
        run(self._target.modify(name, metadata, configuration))


class AsyncRoutedCollection(_Routed):
    """RoutedCollection for AsyncHttpClient: its calls are awaited, and embedding does not block the event loop."""

    async def upsert(self, records: Iterable[RecordLike]) -> WriteResult:
        """See RoutedCollection."""
        return await run_async(write(self._target, "upsert", records))

    async def add(self, records: Iterable[RecordLike]) -> WriteResult:
        """See RoutedCollection."""
        return await run_async(write(self._target, "add", records))

    async def update(self, records: Iterable[RecordLike]) -> WriteResult:
        """See RoutedCollection."""
        return await run_async(write(self._target, "update", records))

    async def query(
        self,
        text: str | None = None,
        *,
        vector: npt.ArrayLike | None = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        include_vectors: bool = False,
    ) -> Hits:
        """See RoutedCollection."""
        check_one_text(text)
        [hits] = await run_async(
            self._query(
                None if text is None else [text],
                None if vector is None else [vector],
                n_results=n_results,
                include_vectors=include_vectors,
                where=where,
                where_document=where_document,
                ids=ids,
            )
        )
        return hits

    async def query_batch(
        self,
        texts: Sequence[str] | None = None,
        *,
        vectors: Iterable[npt.ArrayLike] | None = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        include_vectors: bool = False,
    ) -> list[Hits]:
        """See RoutedCollection."""
        return await run_async(
            self._query(
                texts,
                vectors,
                n_results=n_results,
                include_vectors=include_vectors,
                where=where,
                where_document=where_document,
                ids=ids,
            )
        )

    async def modify(
        self,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        """See RoutedCollection."""
        await run_async(self._target.modify(name, metadata, configuration))

"""A collection read from its first record to its last, a page at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from .errors import CollectionChanged

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

PAGE_RECORDS: Final = 2_000
# Of a page's vectors. Chroma hands each value over as a Python float first, which takes eight times as much.
PAGE_BYTES: Final = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Page:
    """Consecutive records of a collection.

    `embeddings` is (n, dimension) float32, (n, 0) where vectors were not asked for. A document or uri that a
    record has not, or that was not asked for, is None, and so are metadata without a key.
    """

    ids: Sequence[str]
    documents: Sequence[str | None]
    embeddings: npt.NDArray[np.float32]
    metadatas: Sequence[dict[str, Any] | None]
    uris: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.ids)


def page_records(dimension: int | None) -> int:
    """How many records a page has whose vectors are `dimension` wide."""
    return max(1, min(PAGE_RECORDS, PAGE_BYTES // (4 * (dimension or 1))))


def read_pages(
    collection: Collection,
    *,
    vectors: bool = True,
    documents: bool = True,
    size: int | None = None,
    limit: int | None = None,
    get: Callable[..., Any] | None = None,
) -> Iterator[Page]:
    """Every record once, in the order in which they were added; at most `limit` of them.

    `get` is called in place of the collection's own, with the same arguments.

    Chroma has no snapshot to read from: it counts from the first record anew for each page. Records that are
    added meanwhile come last and are read, too; a change of a record is read where it is yet to come. A removal
    shifts what follows, so that records would be passed over: it is found by the record that a page and the one
    before it have in common, and raises CollectionChanged.
    """
    get = get or collection.get
    size = size or page_records(collection.get_model()["dimension"])
    wishes = {"documents": documents, "metadatas": True, "uris": True, "embeddings": vectors}
    include: list[Any] = [name for name, wanted in wishes.items() if wanted]
    place, last = 0, None
    while limit is None or place < limit:
        overlap = 0 if last is None else 1
        wanted = size if limit is None else min(size, limit - place)
        page = _page(get(limit=wanted + overlap, offset=place - overlap, include=include))
        if overlap and (not page.ids or page.ids[0] != last):
            raise CollectionChanged(
                f"Records were removed from collection {collection.name!r} while it was read, which shifts those that "
                f"follow, so that some after the first {place:,} would be missed. Do it again when nothing is removed."
            )
        if len(page) == overlap:
            return
        yield take(page, range(1, len(page))) if overlap else page
        place, last = place + len(page) - overlap, page.ids[-1]


def get_records(collection: Collection, ids: Sequence[str], *, vectors: bool = True) -> Page:
    """Those of the records `ids` that are there, in any order."""
    include: list[Any] = ["documents", "metadatas", "uris", *(["embeddings"] if vectors else [])]
    return _page(collection.get(ids=list(ids), include=include))


def take(page: Page, places: Sequence[int]) -> Page:
    """The records of a page at `places`, in their order."""
    return Page(
        ids=[page.ids[place] for place in places],
        documents=[page.documents[place] for place in places],
        embeddings=page.embeddings[list(places)],
        metadatas=[page.metadatas[place] for place in places],
        uris=[page.uris[place] for place in places],
    )


def take_ids(page: Page, ids: Sequence[str]) -> Page:
    """The records of a page that `ids` name, in their order."""
    places = {id: place for place, id in enumerate(page.ids)}
    return take(page, [places[id] for id in ids])


def _page(found: Any) -> Page:
    count = len(found["ids"])
    given = found.get("embeddings")
    embeddings = np.asarray([] if given is None else given, dtype=np.float32)  # exact: they were float32
    return Page(
        ids=found["ids"],
        documents=found["documents"] or [None] * count,
        embeddings=embeddings.reshape(count, -1) if count else np.empty((0, 0), dtype=np.float32),
        metadatas=[metadata or None for metadata in found["metadatas"] or [None] * count],
        uris=found["uris"] or [None] * count,
    )

"""What goes through an ingest: documents as they are read, the passages they are cut into, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Of the text, then of the rest of the metadata; that a record has it says that an ingest put it there.
HASH: Final = "chroma_mlx:hash"
PASSAGES: Final = "passages"
SOURCE: Final = "source"
# What the ingest itself writes; a column of such a name gets an underscore behind it.
OWN_KEYS: Final = frozenset({SOURCE, "line", "row", "page", "passage", PASSAGES, "heading", HASH})
TEXT_HASH_BYTES: Final = 16
METADATA_HASH_BYTES: Final = 8
MOST_SHOWN: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text as a reader found it. `id` is None where no column names it.

    `place` is its line or row in the source, under that word; a whole file has none.
    `pages` are the offsets of a PDF's pages in the text. `size` is the bytes of the source that it took.
    """

    source: str
    text: str
    id: str | None = None
    place: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    markdown: bool = False
    pages: tuple[int, ...] = ()
    size: int = 0

    @property
    def record_id(self) -> str:
        """The id of what it becomes: the named one, else the source and the place in it."""
        return self.id if self.id is not None else place_id(self.source, self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """What could not be ingested, where it stands, and why, in words.

    `id` is that of the record it would have become; None when nobody can tell, so that any record of its
    source may be it. `excerpt` is the beginning of what was found, and cut to `MOST_SHOWN` characters.
    """

    source: str
    reason: str
    place: Mapping[str, int] = field(default_factory=dict)
    id: str | None = None
    excerpt: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "excerpt", self.excerpt[:MOST_SHOWN])

    def to_dict(self) -> dict[str, Any]:
        """A line of the file of rejects."""
        found = {"source": self.source, **self.place, "id": self.id, "reason": self.reason}
        return {**found, "record": self.excerpt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What becomes a record of the collection: `metadata` is all of it, the hash included.

    `uri` is that of a record that is copied from another collection.
    """

    id: str
    text: str
    metadata: Mapping[str, Any]
    uri: str | None = None

    @property
    def hash(self) -> str:
        """Of the text and of the metadata."""
        return str(self.metadata[HASH])


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The passages of one document, at least one."""

    id: str
    source: str
    place: Mapping[str, int]
    passages: tuple[Passage, ...]


def place_id(source: str, place: Mapping[str, int]) -> str:
    """The id of what stands at a place of a source; of a whole file that of the source."""
    return ":".join([source, *map(str, place.values())])


def passage_id(record_id: str, number: int, passages: int) -> str:
    """The id of passage `number`, counted from 1: that of the record where it is the only one."""
    return record_id if passages == 1 else f"{record_id}#{number}"


def make_passage(id: str, text: str, metadata: Mapping[str, Any]) -> Passage:
    """A passage with its hash in the metadata."""
    known = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    of_text = hashlib.blake2b(text.encode(), digest_size=TEXT_HASH_BYTES).hexdigest()
    of_metadata = hashlib.blake2b(known.encode(), digest_size=METADATA_HASH_BYTES).hexdigest()
    return Passage(id=id, text=text, metadata={**metadata, HASH: f"{of_text}-{of_metadata}"})


def same_text(one: object, other: str) -> bool:
    """Whether two hashes are of one text."""
    return isinstance(one, str) and one.partition("-")[0] == other.partition("-")[0]


def stored_passages(metadata: Mapping[str, Any]) -> int:
    """How many passages the record of a stored one has, as an ingest wrote it; 0 where none did."""
    if HASH not in metadata:
        return 0
    passages = metadata.get(PASSAGES, 1)
    return passages if isinstance(passages, int) and passages >= 1 else 1


def record_id_of(id: str, metadata: Mapping[str, Any]) -> str:
    """The id of the record that a stored passage is of."""
    return id.rpartition("#")[0] if stored_passages(metadata) > 1 else id

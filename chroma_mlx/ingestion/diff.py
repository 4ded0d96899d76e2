"""What a record changes in the collection: a pure function of the record and of what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from .passage import HASH, Passage, Record, passage_id, same_text, stored_passages

# Stored metadata by id.
Stored: TypeAlias = Mapping[str, Mapping[str, Any]]
# A stored record: (text, metadata, uri).
Copied: TypeAlias = tuple[str | None, Mapping[str, Any], str | None]
# More than this in stored metadata is no number of passages that an ingest wrote.
MOST_PASSAGES: Final = 2**26


@dataclass(frozen=True, slots=True)
class Change:
    """A passage to write. `gone` are stored metadata keys that it has no more; `known` is whether it was there."""

    passage: Passage
    gone: tuple[str, ...] = ()
    known: bool = False

    @property
    def metadata(self) -> dict[str, Any]:
        """What to write: None takes a key away."""
        return {**self.passage.metadata, **dict.fromkeys(self.gone)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChanges:
    """What a record changes, or a part of it. `stale` ids are deleted before anything of it is written.

    `embed` passages are new or have another text; of `relabel`, which are written first, only the metadata differ.
    `record` says whose they are, and need not have its passages any more.
    """

    record: Record
    stale: tuple[str, ...] = ()
    embed: tuple[Change, ...] = ()
    relabel: tuple[Change, ...] = ()
    unchanged: int = 0


def ids_to_look_up(record: Record) -> list[str]:
    """The ids whose stored metadata `compare` needs: the passages', and those that say how many there were."""
    own = [passage.id for passage in record.passages]
    return own + [id for id in (record.id, f"{record.id}#1") if id not in own[:1]]


def compare(record: Record, stored: Stored) -> RecordChanges:
    """What `record` changes, given the stored metadata of `ids_to_look_up`.

    Passage 1 says how many passages there were, and is rewritten only after those beyond the new number are
    gone: so whatever moment a run ended at, the next one knows of every passage that may be there.
    """
    embed, relabel, unchanged = list[Change](), list[Change](), 0
    for passage in record.passages:
        metadata = stored.get(passage.id)
        if metadata is None:
            embed.append(Change(passage))
        elif metadata.get(HASH) == passage.hash:
            unchanged += 1
        else:
            change = Change(passage, tuple(sorted(set(metadata) - set(passage.metadata))), known=True)
            (relabel if same_text(metadata.get(HASH), passage.hash) else embed).append(change)
    return RecordChanges(
        record=replace(record, passages=()),  # those that are unchanged need not be held
        stale=tuple(_stale(record, stored)),
        embed=tuple(embed),
        relabel=tuple(relabel),
        unchanged=unchanged,
    )


def compare_copy(source: str, passage: Passage, there: Copied | None) -> RecordChanges:
    """What a record of the collection `source` changes in its copy, which has `there` under its id, or None.

    All is compared as it is: a record of other programs has no hash. A uri that is no more stays in the copy, since
    Chroma takes none away.
    """
    record = Record(id=passage.id, source=source, place={}, passages=(passage,))
    if there is None:
        return RecordChanges(record=record, embed=(Change(passage),))
    text, metadata, uri = there
    change = Change(passage, tuple(sorted(set(metadata) - set(passage.metadata))), known=True)
    if text != passage.text:
        return RecordChanges(record=record, embed=(change,))
    if metadata != passage.metadata or passage.uri not in (None, uri):
        return RecordChanges(record=record, relabel=(change,))
    return RecordChanges(record=record, unchanged=1)


def _stale(record: Record, stored: Stored) -> list[str]:
    now = len(record.passages)
    single = record.id if stored_passages(stored.get(record.id, {})) == 1 and now > 1 else None
    before = min(stored_passages(stored.get(f"{record.id}#1", {})), MOST_PASSAGES)
    first = now + 1 if now > 1 else 1
    many = [passage_id(record.id, number, before) for number in range(first, before + 1)] if before > 1 else []
    # The last first, and so passage 1, which says how many there are, behind all others.
    return [*([single] if single is not None else []), *reversed(many)]

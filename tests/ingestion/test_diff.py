"""The diff: a pure function that leads any stored state to the record, also over writes that were interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chroma_mlx.ingestion.diff import RecordChanges, compare, ids_to_look_up
from chroma_mlx.ingestion.passage import HASH, Record, make_passage, passage_id

Texts = tuple[str, ...]
Database = dict[str, tuple[str, dict[str, Any]]]


def record(texts: Texts, columns: Mapping[str, Any] | None = None) -> Record:
    passages = []
    for number, text in enumerate(texts, start=1):
        metadata = {**(columns or {}), "source": "s"}
        if len(texts) > 1:
            metadata |= {"passage": number, "passages": len(texts)}
        passages.append(make_passage(passage_id("r", number, len(texts)), text, metadata))
    return Record(id="r", source="s", place={}, passages=tuple(passages))


def changes(record: Record, database: Database) -> RecordChanges:
    stored = {id: database[id][1] for id in ids_to_look_up(record) if id in database}
    return compare(record, stored)


def steps(found: RecordChanges, database: Database) -> Iterator[None]:
    """Writes as the writer does, a record a step."""
    for id in found.stale:
        database.pop(id, None)
        yield
    for change in found.relabel:
        text, metadata = database[change.passage.id]
        database[change.passage.id] = (text, merged(metadata, change.metadata))
        yield
    for change in found.embed:
        _, metadata = database.get(change.passage.id, ("", {}))
        database[change.passage.id] = (change.passage.text, merged(metadata, change.metadata))
        yield


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """As Chroma does it: keys that are not given stay, None takes one away."""
    return {key: value for key, value in {**old, **new}.items() if value is not None}


def write(wanted: Record, database: Database, most: int | None = None) -> None:
    for step, _ in enumerate(steps(changes(wanted, database), database), start=1):
        if step == most:
            return


def expected(wanted: Record) -> Database:
    return {passage.id: (passage.text, dict(passage.metadata)) for passage in wanted.passages}


texts = st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=6).map(tuple)
columns = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 2))


@settings(max_examples=150, deadline=None)
@given(
    runs=st.lists(st.tuples(texts, columns, st.integers(1, 8)), max_size=5),
    last=texts,
    last_columns=columns,
)
def test_a_complete_run_leaves_just_the_record_whatever_was_interrupted_before(
    runs: list[tuple[Texts, dict[str, int], int]], last: Texts, last_columns: dict[str, int]
) -> None:
    database: Database = {}
    for some, some_columns, most in runs:
        write(record(some, some_columns), database, most)
    wanted = record(last, last_columns)
    write(wanted, database)
    assert database == expected(wanted)
    again = changes(wanted, database)
    assert (again.stale, again.embed, again.relabel, again.unchanged) == ((), (), (), len(last))


def test_an_edited_passage_alone_is_embedded() -> None:
    database = expected(record(("one", "two", "three")))
    found = changes(record(("one", "edited", "three")), database)
    assert [change.passage.id for change in found.embed] == ["r#2"]
    assert (found.relabel, found.stale, found.unchanged) == ((), (), 2)


def test_other_metadata_is_no_reason_to_embed_and_takes_keys_away() -> None:
    database = expected(record(("one",), {"a": 1, "b": 2}))
    found = changes(record(("one",), {"a": 2}), database)
    [change] = found.relabel
    assert (change.metadata["a"], change.metadata["b"], found.embed) == (2, None, ())


def test_a_record_that_got_shorter_loses_its_last_passages_first() -> None:
    found = changes(record(("one",)), expected(record(("one", "two", "three"))))
    assert found.stale == ("r#3", "r#2", "r#1")


def test_a_single_passage_goes_when_there_are_several() -> None:
    found = changes(record(("one", "two")), expected(record(("one",))))
    assert found.stale == ("r",)
    assert [change.passage.id for change in found.embed] == ["r#1", "r#2"]


def test_what_no_ingest_put_there_is_never_stale() -> None:
    database: Database = {"r": ("mine", {"passages": 9}), "r#1": ("mine", {"passages": 9})}
    assert changes(record(("one", "two")), database).stale == ()


def test_another_record_that_is_named_like_a_passage_is_not_stale() -> None:
    database: Database = {"r#1": ("other", dict(make_passage("r#1", "other", {"source": "s"}).metadata))}
    assert changes(record(("one",)), database).stale == ()


def test_the_hash_depends_on_text_and_metadata() -> None:
    hashes = {record((text,), more).passages[0].metadata[HASH] for text in ("a", "b") for more in ({}, {"a": 1})}
    assert len(hashes) == 4

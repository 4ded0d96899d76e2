"""Records that are not valid: each is named by place and id, and nothing of the call is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import pytest
from chromadb.api import ClientAPI

from chroma_mlx import EmbeddingRouter, Record
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.errors import DimensionMismatch, InputError, PartialWrite, RecordError
from chroma_mlx.router import RoutedCollection

WIDTH = 8
GOOD = [0.5] * WIDTH
UNIT = [1.0] + [0.0] * (WIDTH - 1)
LONE = "half a pair \ud83d"


def exact(client: ClientAPI, name: str) -> RoutedCollection:
    """Empty, in mode mock; in a cosine space Chroma stores the unit vector and the length, and rounds."""
    return EmbeddingRouter(mode="mock", dimension=WIDTH).collection(
        client, name, configuration={"hnsw": {"space": "l2"}}
    )


def contents(collection: RoutedCollection) -> dict[str, Any]:
    """Everything in the collection, by id."""
    found = collection.get(include=["documents", "metadatas", "uris", "embeddings"])
    rows = zip(
        found["documents"],
        [metadata or None for metadata in found["metadatas"]],
        found["uris"],
        np.array(found["embeddings"]).tolist(),
        strict=True,
    )
    return dict(zip(found["ids"], rows, strict=True))


def refuse(collection: RoutedCollection, bad: Any, message: str, *, id: str | None = "bad") -> RecordError:
    """Upserts `bad` between good records, one of which would change what is there; returns the error."""
    collection.upsert([{"id": "old", "text": "old text", "metadata": {"n": 1}}])
    before = contents(collection)
    good = [{"id": "old", "text": "new text"}, {"id": "new", "vector": GOOD}]
    with pytest.raises(RecordError, match=message) as caught:
        collection.upsert([good[0], bad, good[1]])
    assert (caught.value.index, caught.value.id) == (1, id)
    assert [problem.index for problem in caught.value.problems] == [1] * len(caught.value.problems)
    assert str(caught.value).endswith("Nothing was written.")
    assert collection.count() == 1
    assert contents(collection) == before
    return caught.value


def fail(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the model was called")


NAMED = r"Record 1 \(id 'bad'\): "

BAD_VECTORS: dict[str, tuple[Any, str]] = {
    "nan": ([*GOOD[1:], math.nan], "its vector holds nan at position 7"),
    "nan as float32": (np.array([math.nan, *GOOD[1:]], np.float32), "its vector holds nan at position 0"),
    "infinity": ([math.inf, *GOOD[1:]], "its vector holds inf at position 0"),
    "minus infinity": ([-math.inf, *GOOD[1:]], "its vector holds -inf at position 0"),
    "overflow": (np.array([1e39, *GOOD[1:]]), "its vector holds inf at position 0, as float32"),
    "zero": ([0.0] * WIDTH, "its vector is zero"),
    "zero as whole numbers": ([0] * WIDTH, "its vector is zero"),
    "minus zero": ([-0.0] * WIDTH, "its vector is zero"),
    "underflow": ([1e-60] * WIDTH, "its vector is zero"),
    "narrow": (GOOD[1:], "its vector has 7 dimensions, but this collection's have 8"),
    "wide": ([*GOOD, 0.5], "its vector has 9 dimensions, but this collection's have 8"),
    "ragged": ([[0.5], [0.5, 0.5]], "its vector is no array of numbers"),
    "two dimensions": ([GOOD], r"its vector has the shape \(1, 8\)"),
    "no dimension": (0.5, r"its vector has the shape \(\), not \(dimension,\)"),
    "empty list": ([], "its vector has the shape|its vector is empty"),
    "empty array": (np.empty(0, np.float32), r"its vector has the shape \(0,\)"),
    "bool": ([True] * WIDTH, r"its vector holds values that are no numbers \(bool\)"),
    "str": (["0.5"] * WIDTH, r"its vector holds values that are no numbers \(<U3\)"),
    "complex": ([0.5j] * WIDTH, r"its vector holds values that are no numbers \(complex128\)"),
    "None among numbers": ([None, *GOOD[1:]], r"its vector holds values that are no numbers \(object\)"),
    "object": (np.array(GOOD, object), r"its vector holds values that are no numbers \(object\)"),
    "dates": (np.array(["2024-01-01"] * WIDTH, "datetime64[D]"), "its vector holds values that are no numbers"),
    "masked": (np.ma.masked_array(GOOD, [True] + [False] * 7), "its vector is a masked array"),
    "masked float32": (np.ma.masked_array(np.array(GOOD, np.float32)), "its vector is a masked array"),
    "text": ("0.5 0.5", "its vector is a str, not a list or an array of numbers"),
    "bytes": (b"01234567", "its vector is a bytes, not a list"),
    "dict": ({"values": GOOD}, "its vector is a dict, not a list"),
    "set": ({0.5, 0.25}, "its vector is a set, not a list"),
    "generator": ((value for value in GOOD), "its vector holds values that are no numbers"),
    "any object": (object(), "its vector holds values that are no numbers"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_a_bad_vector_is_named_and_nothing_is_written(collection: RoutedCollection, case: str) -> None:
    vector, message = BAD_VECTORS[case]

    refuse(collection, {"id": "bad", "vector": vector, "text": "with a text"}, NAMED + f"(?:{message})")


@pytest.mark.parametrize("case", ["nan", "narrow", "two dimensions", "text", "zero"])
@pytest.mark.parametrize("method", ["add", "update"])
def test_add_and_update_refuse_bad_vectors_too(collection: RoutedCollection, method: str, case: str) -> None:
    vector, message = BAD_VECTORS[case]
    collection.upsert([{"id": id, "vector": UNIT} for id in (["a", "b"] if method == "update" else ["c"])])
    before = contents(collection)

    with pytest.raises(RecordError, match=rf"Record 1 \(id 'b'\): (?:{message})"):
        getattr(collection, method)([{"id": "a", "vector": GOOD}, {"id": "b", "vector": vector}])

    assert contents(collection) == before


@pytest.mark.parametrize(
    "vector",
    [
        GOOD,
        tuple(GOOD),
        np.array(GOOD),
        np.array(GOOD, np.float16),
        np.array(GOOD, np.float32)[::-1],
        np.array([GOOD, GOOD], np.float32, order="F")[0],
        range(1, WIDTH + 1),
        np.arange(1, WIDTH + 1, dtype=np.uint8),
    ],
)
def test_any_flat_numbers_are_stored_as_float32(client: ClientAPI, name: str, vector: Any) -> None:
    collection = exact(client, name)

    result = collection.upsert([{"id": "a", "vector": vector}])

    assert (result.inserted, result.provided, result.embedded) == (1, 1, 0)
    assert contents(collection)["a"][3] == [float(value) for value in vector]


BAD_METADATA: dict[str, tuple[Any, str]] = {
    "nan": ({"k": math.nan}, "its metadata has nan under 'k', which Chroma would drop"),
    "nan of numpy": ({"k": np.float32("nan")}, "its metadata has nan under 'k'"),
    "infinity": ({"k": -math.inf}, "its metadata has -inf under 'k'"),
    "nan in a list": ({"k": [1.0, math.nan]}, "its metadata has nan under 'k'"),
    "more than 64 bits": ({"k": 2**63}, "its metadata has 9223372036854775808 under 'k', which has more than 64 bits"),
    "below 64 bits": ({"k": -(2**63) - 1}, ".*which has more than 64 bits"),
    "more than 64 bits in a list": ({"k": [1, 2**64]}, ".*which has more than 64 bits"),
    "uint64": ({"k": np.uint64(2**64 - 1)}, ".*which has more than 64 bits"),
    "dict": ({"k": {"a": 1}}, r"its metadata has \{'a': 1\} under 'k', a dict, which Chroma cannot hold"),
    "empty list": ({"k": []}, r"its metadata has \[\] under 'k'"),
    "mixed list": ({"k": [1, "a"]}, r"its metadata has \[1, 'a'\] under 'k'"),
    "bool and int": ({"k": [True, 1]}, r"its metadata has \[True, 1\] under 'k'"),
    "int and float": ({"k": [1, 1.5]}, r"its metadata has \[1, 1.5\] under 'k'"),
    "None in a list": ({"k": ["a", None]}, "its metadata has None under 'k', a NoneType"),
    "nested list": ({"k": [[1], [2]]}, r"its metadata has \[1\] under 'k', a list"),
    "set": ({"k": {"a"}}, "its metadata has {'a'} under 'k', a set"),
    "bytes": ({"k": b"a"}, "its metadata has b'a' under 'k', a bytes"),
    "complex": ({"k": 1j}, "its metadata has 1j under 'k', a complex"),
    "date": ({"k": np.datetime64("2024-01-01")}, ".*under 'k', a date, which Chroma cannot hold"),
    "two-dimensional array": ({"k": np.ones((2, 2))}, "its metadata has .* under 'k'"),
    "reserved chroma:": ({"chroma:document": "a"}, "its metadata has the key 'chroma:document'. Chroma keeps the keys"),
    "reserved #": ({"#document": "a"}, "its metadata has the key '#document'"),
    "reserved $": ({"$and": "a"}, r"its metadata has the key '\$and'"),
    "empty key": ({"": "a"}, "its metadata has the key ''"),
    "int key": ({1: "a"}, "its metadata has the key 1, which is a int, not a str"),
    "None key": ({None: "a"}, "its metadata has the key None, which is a NoneType, not a str"),
    "surrogate in a key": ({LONE: "a"}, "its metadata has a key that holds the lone surrogate"),
    "surrogate in a value": ({"k": LONE}, "its metadata has a text under 'k' that holds the lone surrogate"),
    "surrogate in a list": ({"k": ["a", LONE]}, "its metadata has a text under 'k' that holds the lone surrogate"),
    "no dict": ([("k", 1)], "its metadata is a list, not a dict"),
    "text": ("k=1", "its metadata is a str, not a dict"),
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_metadata_that_chroma_cannot_hold_is_named_and_nothing_is_written(
    collection: RoutedCollection, case: str
) -> None:
    metadata, message = BAD_METADATA[case]

    refuse(collection, {"id": "bad", "text": "a text", "metadata": metadata}, NAMED + message)


def test_metadata_that_chroma_can_hold_comes_back_as_it_was(collection: RoutedCollection) -> None:
    metadata = {
        "text": "naïve 🌍 \x00",
        "empty": "",
        "true": True,
        "small": -(2**63),
        "large": 2**63 - 1,
        "decimal": 1e300,
        "numpy": np.float64(0.5),
        "numbers": np.arange(3),
        "words": ("a", "b"),
        "flags": [True, False],
    }

    collection.upsert([{"id": "a", "text": "text", "metadata": metadata}, {"id": "b", "text": "none", "metadata": {}}])

    found = collection.get(["a"])["metadatas"][0]
    assert found == {**metadata, "numbers": [0, 1, 2], "words": ["a", "b"]}
    assert type(found["true"]) is bool
    assert contents(collection)["b"][1] is None


BAD_FIELDS: dict[str, tuple[Any, str | None, str]] = {
    "id missing": ({"text": "a"}, None, "Record 1: it has no id"),
    "id None": ({"id": None, "text": "a"}, None, "Record 1: it has no id"),
    "id empty": ({"id": "", "text": "a"}, None, "Record 1: its id is empty"),
    "id a number": ({"id": 7, "text": "a"}, None, "Record 1: its id is of type int, not str"),
    "id bytes": ({"id": b"a", "text": "a"}, None, "Record 1: its id is of type bytes, not str"),
    "id a surrogate": ({"id": LONE, "text": "a"}, None, "Record 1: its id holds the lone surrogate"),
    "nothing at all": ({}, None, "Record 1: it has no id"),
    "no content": ({"id": "bad"}, "bad", NAMED + "it has neither text nor vector"),
    "content None": ({"id": "bad", "text": None, "vector": None}, "bad", NAMED + "it has neither text nor vector"),
    "metadata alone": ({"id": "bad", "metadata": {"a": 1}}, "bad", NAMED + "it has neither text nor vector"),
    "uri alone": ({"id": "bad", "uri": "file:a"}, "bad", NAMED + "it has neither text nor vector"),
    "text a number": ({"id": "bad", "text": 7}, "bad", NAMED + "its text is of type int, not str"),
    "text nan": ({"id": "bad", "text": math.nan}, "bad", NAMED + "its text is of type float, not str"),
    "text a list": ({"id": "bad", "text": ["a"]}, "bad", NAMED + "its text is of type list, not str"),
    "text bytes": ({"id": "bad", "text": b"a"}, "bad", NAMED + "its text is of type bytes, not str"),
    "text a surrogate": ({"id": "bad", "text": LONE}, "bad", NAMED + "its text holds the lone surrogate"),
    "uri a surrogate": ({"id": "bad", "text": "a", "uri": LONE}, "bad", NAMED + "its uri holds the lone surrogate"),
    "uri a number": ({"id": "bad", "text": "a", "uri": 7}, "bad", NAMED + "its uri is of type int, not str"),
    "unknown key": ({"id": "bad", "text": "a", "title": "t"}, "bad", NAMED + "unknown key 'title'. Known keys are id"),
    "key no str": ({"id": "bad", "text": "a", 1: "t"}, "bad", NAMED + "unknown key 1. Known keys are id"),
    "a text": ("just a text", None, "Record 1: it is of type str, not a record. Pass a dict with the keys id"),
    "a pair": (("bad", "text"), None, "Record 1: it is of type tuple, not a record"),
    "None": (None, None, "Record 1: it is of type NoneType, not a record"),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_a_bad_record_amid_good_ones_is_named_and_none_is_written(collection: RoutedCollection, case: str) -> None:
    record, id, message = BAD_FIELDS[case]

    refuse(collection, record, message, id=id)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("document", "text"), ("content", "text"), ("embedding", "vector"), ("metadatas", "metadata"), ("_id", "id")],
)
def test_a_key_by_the_name_of_another_library_gets_a_hint(collection: RoutedCollection, key: str, meant: str) -> None:
    refuse(collection, {"id": "bad", key: "a"}, NAMED + f"unknown key '{key}'. Did you mean '{meant}'")


def test_a_record_object_is_checked_like_a_dict(collection: RoutedCollection) -> None:
    refuse(collection, Record("bad", vector=[math.nan] * WIDTH), NAMED + "its vector holds nan at position 0")
    refuse(collection, Record("bad"), NAMED + "it has neither text nor vector")


@pytest.mark.parametrize("method", ["add", "upsert", "update"])
def test_an_id_twice_in_a_call_is_named_with_the_place_of_the_first(collection: RoutedCollection, method: str) -> None:
    collection.upsert([{"id": "a", "text": "old"}])

    with pytest.raises(RecordError, match=r"Record 2 \(id 'x'\): its id is that of record 0 too") as caught:
        getattr(collection, method)([{"id": "x", "text": "1"}, {"id": "a", "text": "2"}, {"id": "x", "text": "1"}])

    assert [(problem.index, problem.id) for problem in caught.value.problems] == [(2, "x")]
    assert {id: row[0] for id, row in contents(collection).items()} == {"a": "old"}


@pytest.mark.parametrize("method", ["add", "upsert", "update"])
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "There is no record to {method}: the list is empty"),
        (iter([]), "There is no record to {method}: the list is empty"),
        ({"id": "a", "text": "b"}, "{method} takes a list of records, and got one record"),
        (Record("a", text="b"), "{method} takes a list of records, and got one record"),
        ("a text", "{method} takes a list of records, and got a str"),
        (None, "{method} takes a list of records, and got a NoneType"),
        (7, "{method} takes a list of records, and got a int"),
    ],
)
def test_what_is_no_list_of_records_is_refused(
    collection: RoutedCollection, method: str, records: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message.format(method=method)):
        getattr(collection, method)(records)

    assert collection.count() == 0


def test_many_problems_are_all_in_the_error_and_five_in_its_message(collection: RoutedCollection) -> None:
    records: list[Mapping[str, Any]] = [{"id": f"r{place}", "text": place} for place in range(8)]

    with pytest.raises(RecordError, match="8 problems in 9 records") as caught:
        collection.upsert([{"id": "good", "text": "good"}, *records])

    assert [problem.id for problem in caught.value.problems] == [f"r{place}" for place in range(8)]
    message = str(caught.value)
    assert message.count("Record ") == 5
    assert "… and 3 more." in message
    assert collection.count() == 0


def test_all_that_is_wrong_with_one_record_is_said_at_once(collection: RoutedCollection) -> None:
    bad = {"id": "bad", "text": 7, "vector": "x", "metadata": {"": 1}, "uri": 7, "title": "t"}

    error = refuse(collection, bad, "5 problems in 3 records")

    said = " ".join(problem.reason for problem in error.problems)
    assert all(word in said for word in ("text", "vector", "metadata", "uri", "title"))


def test_problems_are_in_the_order_of_the_records(collection: RoutedCollection) -> None:
    records = [{"id": "a", "vector": [math.nan] * WIDTH}, {"id": "b", "text": 7}, {"id": "c", "vector": [0.0] * WIDTH}]

    with pytest.raises(RecordError, match="3 problems") as caught:
        collection.upsert(records)

    assert [problem.id for problem in caught.value.problems] == ["a", "b", "c"]


def test_add_refuses_an_id_that_is_there_and_update_one_that_is_not(collection: RoutedCollection) -> None:
    collection.add([{"id": "a", "text": "old"}])
    before = contents(collection)

    with pytest.raises(RecordError, match=r"Record 1 \(id 'a'\): it is in the collection already. Use upsert"):
        collection.add([{"id": "b", "text": "new"}, {"id": "a", "text": "new"}])
    with pytest.raises(RecordError, match=r"Record 1 \(id 'b'\): it is not in the collection. Use upsert"):
        collection.update([{"id": "a", "text": "new"}, {"id": "b", "text": "new"}])

    assert contents(collection) == before


@pytest.mark.parametrize("nothing", [{}, {"text": None}, {"metadata": {}}])
def test_an_update_that_changes_nothing_is_refused(collection: RoutedCollection, nothing: dict[str, Any]) -> None:
    collection.add([{"id": "a", "text": "old"}])

    with pytest.raises(RecordError, match=r"Record 0 \(id 'a'\): it changes nothing. Give it a text"):
        collection.update([{"id": "a", **nothing}])


def test_an_update_changes_what_is_given_and_keeps_the_rest(collection: RoutedCollection) -> None:
    collection.add(
        [
            {"id": "text", "text": "old", "metadata": {"n": 1}, "uri": "old"},
            {"id": "meta", "text": "old", "metadata": {"n": 1, "gone": 1}, "uri": "old"},
            {"id": "uri", "text": "old", "metadata": {"n": 1}, "uri": "old"},
            {"id": "vector", "text": "old", "metadata": {"n": 1}, "uri": "old"},
        ]
    )
    old = contents(collection)["text"][3]

    result = collection.update(
        [
            {"id": "meta", "metadata": {"n": 2, "gone": None}},
            {"id": "text", "text": "quite new"},
            {"id": "uri", "uri": "new"},
            {"id": "vector", "vector": UNIT},
        ]
    )

    after = contents(collection)
    assert (result.inserted, result.updated, result.embedded, result.provided) == (0, 4, 1, 1)
    assert after["meta"] == ("old", {"n": 2}, "old", old)
    assert after["text"][:3] == ("quite new", {"n": 1}, "old")
    assert after["text"][3] != old
    assert after["uri"] == ("old", {"n": 1}, "new", old)
    assert after["vector"] == ("old", {"n": 1}, "old", UNIT)


def test_records_of_every_kind_are_written_in_one_call(client: ClientAPI, name: str) -> None:
    collection = exact(client, name)

    result = collection.upsert(
        [
            {"id": "text", "text": "the moon"},
            Record("vector", vector=UNIT),
            {"id": "both", "text": "the sun", "vector": GOOD, "metadata": {"n": 1}},
            {"id": "uri", "vector": UNIT, "uri": "file:a"},
        ]
    )

    after = contents(collection)
    assert (result.inserted, result.updated, result.embedded, result.provided) == (4, 0, 1, 3)
    assert after["vector"] == (None, None, None, UNIT)
    assert after["both"] == ("the sun", {"n": 1}, None, GOOD)
    assert after["uri"] == (None, None, "file:a", UNIT)
    np.testing.assert_allclose(np.linalg.norm(after["text"][3]), 1, atol=1e-5)


def test_a_vector_that_is_not_of_unit_length_is_named_in_an_ip_space(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(mode="user_provided").collection(client, name, configuration={"hnsw": {"space": "ip"}})

    with pytest.raises(RecordError, match=r"Record 1 \(id 'b'\): its vector has the length 1\.414, and .* ip"):
        collection.upsert([{"id": "a", "vector": UNIT}, {"id": "b", "vector": [0.5] * WIDTH}])

    assert collection.count() == 0


def test_vectors_of_any_length_are_taken_in_an_ip_space_without_normalize(client: ClientAPI, name: str) -> None:
    router = EmbeddingRouter(mode="user_provided", normalize=False)
    collection = router.collection(client, name, configuration={"hnsw": {"space": "ip"}})

    collection.upsert([{"id": "a", "vector": GOOD}])

    assert contents(collection)["a"][3] == GOOD


def test_a_unit_vector_rounded_to_float16_is_taken_in_an_ip_space(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(mode="user_provided").collection(client, name, configuration={"hnsw": {"space": "ip"}})
    vector = (np.ones(WIDTH) / np.sqrt(WIDTH)).astype(np.float16)

    collection.upsert([{"id": "a", "vector": vector}])

    assert contents(collection)["a"][3] == vector.astype(np.float64).tolist()


def test_a_text_beyond_the_limit_is_named_by_its_record(client: ClientAPI, name: str) -> None:
    router = EmbeddingRouter(model_name="builtin", max_tokens=16, on_long_text="error")
    collection = router.collection(client, name)
    records = [{"id": "v", "vector": np.ones(256)}, {"id": "a", "text": "ok"}, {"id": "b", "text": "moon " * 100}]

    with pytest.raises(RecordError, match=r"Record 2 \(id 'b'\): its text has \d+ tokens, but the limit is 16"):
        collection.upsert(records)

    assert collection.count() == 0


def test_records_that_are_checked_last_stop_the_batches_before_them(
    collection: RoutedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection._target, "max_batch", 2)
    records: list[dict[str, Any]] = [{"id": f"r{place}", "text": f"text {place}"} for place in range(5)]

    with pytest.raises(RecordError, match=r"Record 5 \(id 'bad'\)"):
        collection.upsert([*records, {"id": "bad", "text": LONE}])

    assert collection.count() == 0
    assert collection.upsert(records).inserted == 5
    assert {id: row[0] for id, row in contents(collection).items()} == {f"r{n}": f"text {n}" for n in range(5)}


def failing_after(calls: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real` for so many calls, then a database that is out of space."""
    made: list[int] = []

    def call(**arguments: Any) -> Any:
        made.append(1)
        if len(made) > calls:
            raise OSError("no space left on device")
        return real(**arguments)

    return call


@pytest.mark.parametrize("method", ["add", "upsert"])
def test_a_database_that_fails_midway_says_how_much_is_written_and_upsert_completes_it(
    collection: RoutedCollection, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(collection._target, "max_batch", 2)
    records = [{"id": f"r{place}", "text": f"text {place}"} for place in range(7)]

    with monkeypatch.context() as broken:
        broken.setattr(collection.chroma, method, failing_after(2, getattr(collection.chroma, method)))
        with pytest.raises(
            PartialWrite, match=r"first 4 of 7 records .* \(OSError: no space left on device\)"
        ) as caught:
            getattr(collection, method)(records)

    assert (caught.value.written, caught.value.total) == (4, 7)
    assert isinstance(caught.value.__cause__, OSError)
    assert sorted(contents(collection)) == ["r0", "r1", "r2", "r3"]
    result = collection.upsert(records)
    assert (result.inserted, result.updated) == (3, 4)
    assert {id: row[0] for id, row in contents(collection).items()} == {f"r{n}": f"text {n}" for n in range(7)}


def test_a_database_that_fails_amid_an_update_says_to_update_again(
    collection: RoutedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add([{"id": f"r{place}", "text": f"text {place}"} for place in range(4)])
    monkeypatch.setattr(collection._target, "max_batch", 2)
    records = [{"id": f"r{place}", "metadata": {"n": place}} for place in range(4)]

    with monkeypatch.context() as broken:
        broken.setattr(collection.chroma, "update", failing_after(1, collection.chroma.update))
        # upsert would refuse records without text and vector
        with pytest.raises(PartialWrite, match=r"first 2 of 4 records .* call update again"):
            collection.update(records)

    assert collection.update(records).updated == 4
    assert [row[1] for row in contents(collection).values()] == [{"n": place} for place in range(4)]


def test_the_records_that_a_partial_update_wrote_are_the_first_of_the_call(
    collection: RoutedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add([{"id": id, "text": "old", "metadata": {"n": 0}} for id in ("a", "b")])
    monkeypatch.setattr(collection.chroma, "update", failing_after(1, collection.chroma.update))

    with pytest.raises(PartialWrite, match="first 1 of 2 records"):
        collection.update([{"id": "a", "metadata": {"n": 1}}, {"id": "b", "text": "new"}])

    rows = contents(collection)
    assert (rows["a"][1], rows["b"][0]) == ({"n": 1}, "old")


def test_a_database_that_fails_at_once_raises_its_own_error(
    collection: RoutedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection._target, "max_batch", 2)
    monkeypatch.setattr(collection.chroma, "upsert", failing_after(0, collection.chroma.upsert))

    with pytest.raises(OSError, match=r"^no space left on device$"):
        collection.upsert([{"id": f"r{place}", "text": "text"} for place in range(5)])

    assert collection.count() == 0


def test_a_refused_write_is_not_counted(collection: RoutedCollection, mock: EmbeddingRouter) -> None:
    with pytest.raises(RecordError, match="Record 0"):
        collection.upsert([{"id": "a"}])

    assert (mock.usage.writes, mock.usage.inserted) == (0, 0)


@pytest.mark.parametrize("given", [False, True], ids=["text", "text and vectors"])
def test_a_width_that_appeared_since_is_found_before_the_model_runs(
    client: ClientAPI, name: str, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    collection = EmbeddingRouter(model_name="builtin").collection(client, name)
    client.get_collection(name).add(ids=["other"], embeddings=[[0.5] * 128])
    monkeypatch.setattr(Encoder, "embed", fail)
    records: list[dict[str, Any]] = [{"id": "a", "text": "moon"}]
    if given:
        records.append({"id": "b", "vector": np.ones(128)})

    with pytest.raises(DimensionMismatch, match="stores 128-d vectors, but this configuration makes 256-d") as caught:
        collection.upsert(records)
    with pytest.raises(DimensionMismatch, match="stores 128-d vectors"):
        collection.query("moon")

    assert (caught.value.expected, caught.value.got) == (128, 256)
    assert list(contents(collection)) == ["other"]


def test_a_bad_record_is_found_before_the_model_runs(
    client: ClientAPI, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = EmbeddingRouter(model_name="builtin").collection(client, name)
    monkeypatch.setattr(Encoder, "embed", fail)

    with pytest.raises(RecordError, match=r"Record 1 \(id 'b'\): its vector has 8 dimensions, but .* 256"):
        collection.upsert([{"id": "a", "text": "moon"}, {"id": "b", "vector": GOOD}])
    with pytest.raises(RecordError, match=r"Record 0 \(id 'a'\): it is not in the collection"):
        collection.update([{"id": "a", "text": "moon"}])

    assert collection.count() == 0


def test_vectors_of_two_widths_in_the_first_call_are_refused(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(mode="user_provided").collection(client, name)

    with pytest.raises(RecordError, match=r"Record 1 \(id 'b'\): its vector has 4 dimensions, but .* have 8"):
        collection.upsert([{"id": "a", "vector": GOOD}, {"id": "b", "vector": [0.5] * 4}])

    assert collection.count() == 0

"""Random writes of mixed records into a real database, held against a model in plain Python."""

from __future__ import annotations

import copy
import dataclasses
import math
import uuid
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from chromadb.api import ClientAPI
from hypothesis import HealthCheck, example, given, settings

from chroma_mlx import EmbeddingConfig, EmbeddingRouter, Record
from chroma_mlx.errors import RecordError
from chroma_mlx.router import RoutedCollection

DIMENSION = 16
MOCK = EmbeddingRouter(EmbeddingConfig(mode="mock", dimension=DIMENSION))
METHODS = ("upsert", "add", "update")
# In one pass or in several, a text has the same vector but for the rounding of sums.
EMBEDDED_TOLERANCE = 1e-5
# In cosine space Chroma 1.5 keeps a vector as its direction and its length: the last bits may change.
COSINE_TOLERANCE = 1e-6
SPACES = ("cosine", "l2")

Content = dict[str, dict[str, Any]]
Call = tuple[str, dict[int, dict[str, Any]]]

in_a_database = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def new_collection(client: ClientAPI, router: EmbeddingRouter, batch: int, space: str = "cosine") -> RoutedCollection:
    """An empty collection whose calls are cut after `batch` records.

    None is deleted: Chroma 1.5 leaves lists of a deleted collection's metadata behind, and gives them to another's.
    """
    collection = router.collection(client, f"mixed-{uuid.uuid4().hex}", configuration={"hnsw": {"space": space}})
    collection._target.max_batch = batch
    return collection


# --- What is drawn -----------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
keys = st.sampled_from(["a", "b", "page", "ключ"]) | names.filter(lambda key: not key.startswith(("chroma:", "#", "$")))
# Chroma 1.5 rounds the last bit of a number of many digits.
floats = st.integers(-(10**6), 10**6).map(lambda number: number / 8) | st.sampled_from([1e300, 1e-7, -0.1])
integers = st.integers(-(2**63), 2**63 - 1)
lists = st.one_of([st.lists(each, min_size=1, max_size=3) for each in (texts, integers, floats, st.booleans())])
metadatas = st.dictionaries(keys, st.none() | texts | integers | floats | st.booleans() | lists, max_size=4)


def vectors_of(dimension: int) -> st.SearchStrategy[list[float]]:
    numbers = st.floats(-(2.0**20), 2.0**20, width=32)
    return st.lists(numbers, min_size=dimension, max_size=dimension).filter(lambda vector: max(map(abs, vector)) > 1e-6)


@st.composite
def drawn_records(draw: st.DrawFn, dimension: int, method: str) -> dict[str, Any]:
    """A record without its id, valid for `method`."""
    extras = st.fixed_dictionaries({}, optional={"metadata": metadatas | st.none(), "uri": texts | st.none()})
    record: dict[str, Any] = draw(extras)
    needed = ["text", "vector"] + ["nothing"] * (method == "update" and bool(record.get("metadata")))
    parts = draw(st.sets(st.sampled_from(needed), min_size=1))
    if "text" in parts:
        record["text"] = draw(texts)
    if "vector" in parts:
        record["vector"] = draw(vectors_of(dimension))
    return record


@st.composite
def drawn_calls(draw: st.DrawFn, dimension: int) -> tuple[list[str], list[Call]]:
    """Ids, and calls with records by the place of their id; which of these a call can have, its method says."""
    ids = draw(st.lists(names, min_size=1, max_size=7, unique=True))
    calls = []
    for _ in range(draw(st.integers(1, 4))):
        method = draw(st.sampled_from(METHODS))
        places = st.integers(0, len(ids) - 1)
        calls.append((method, draw(st.dictionaries(places, drawn_records(dimension, method), min_size=1))))
    return ids, calls


# --- What should be stored ---------------------------------------------------------------------------------


def store(content: Content, router: EmbeddingRouter, records: list[dict[str, Any]]) -> None:
    """What a write means, in plain Python: what is not given stays, and metadata is merged by key."""
    for record in records:
        entry = content.setdefault(record["id"], {"text": None, "vector": None, "metadata": {}, "uri": None})
        for field in ("text", "uri"):
            if record.get(field) is not None:
                entry[field] = record[field]
        if record.get("vector") is not None:
            entry["vector"] = ("provided", np.asarray(record["vector"], dtype=np.float32))
        elif record.get("text") is not None:
            entry["vector"] = ("embedded", router.embed([record["text"]])[0])
        merged = {**entry["metadata"], **(record.get("metadata") or {})}
        entry["metadata"] = {key: value for key, value in merged.items() if value is not None}


def read(collection: RoutedCollection) -> Content:
    """All that is stored, by id."""
    found = collection.get(include=["documents", "metadatas", "uris", "embeddings"])
    columns = zip(found["ids"], found["documents"], found["embeddings"], found["metadatas"], found["uris"], strict=True)
    return {
        id: {"text": text, "vector": np.asarray(vector, dtype=np.float32), "metadata": metadata or {}, "uri": uri}
        for id, text, vector, metadata, uri in columns
    }


def same_values(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether metadata are equal in their types too: 1, 1.0 and True are three values."""
    return left == right and {key: typed(value) for key, value in left.items()} == {
        key: typed(value) for key, value in right.items()
    }


def typed(value: Any) -> Any:
    return [type(each) for each in value] if isinstance(value, list) else type(value)


def assert_stored(collection: RoutedCollection, expected: Content, *, tolerance: float) -> None:
    found = read(collection)
    assert found.keys() == expected.keys()
    assert collection.count() == len(expected)
    for id, entry in expected.items():
        assert found[id]["text"] == entry["text"], id
        assert found[id]["uri"] == entry["uri"], id
        assert same_values(found[id]["metadata"], entry["metadata"]), (id, found[id]["metadata"], entry["metadata"])
        made, vector = entry["vector"]
        assert_same_vector(found[id]["vector"], vector, collection, tolerance if made == "embedded" else 0.0)


def assert_same_vector(
    found: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    collection: RoutedCollection,
    tolerance: float = 0.0,
) -> None:
    """To the last bit, but for `tolerance` and for what Chroma rounds in a cosine space."""
    if collection.configuration_json["hnsw"]["space"] == "cosine":
        tolerance = max(tolerance, COSINE_TOLERANCE)
    if tolerance == 0.0:
        np.testing.assert_array_equal(found, expected)
    else:
        length = float(np.linalg.norm(expected.astype(np.float64)))
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=tolerance * length)


def write_and_compare(
    client: ClientAPI,
    router: EmbeddingRouter,
    drawn: tuple[list[str], list[Call]],
    batch: int,
    space: str,
    tolerance: float = 0.0,
) -> None:
    ids, calls = drawn
    expected: Content = {}
    collection = new_collection(client, router, batch, space)
    for method, by_place in calls:
        records = [{"id": ids[place], **record} for place, record in by_place.items()]
        if method != "upsert":
            records = [record for record in records if (record["id"] in expected) == (method == "update")]
        if not records:
            continue
        known = sum(record["id"] in expected for record in records)
        given_before = copy.deepcopy(records)

        result = getattr(collection, method)(records)

        assert records == given_before
        store(expected, router, records)
        provided = sum(record.get("vector") is not None for record in records)
        alone = sum(record.get("vector") is None and record.get("text") is not None for record in records)
        assert (result.inserted, result.updated) == (len(records) - known, known)
        assert (result.provided, result.embedded) == (provided, alone)
        assert_stored(collection, expected, tolerance=tolerance)


# --- What goes in comes out --------------------------------------------------------------------------------


@in_a_database
@given(drawn_calls(DIMENSION), st.sampled_from([1, 3, 1_000]), st.sampled_from(SPACES))
def test_what_goes_in_comes_back_in_mode_mock(
    client: ClientAPI, drawn: tuple[list[str], list[Call]], batch: int, space: str
) -> None:
    write_and_compare(client, MOCK, drawn, batch, space)


@settings(in_a_database, max_examples=12)
@given(drawn_calls(64), st.sampled_from([3, 1_000]), st.sampled_from(SPACES))
def test_what_goes_in_comes_back_in_mode_mlx(
    client: ClientAPI, drawn: tuple[list[str], list[Call]], batch: int, space: str
) -> None:
    router = EmbeddingRouter(EmbeddingConfig(mode="mlx", model_name="builtin", dimension=64, device="cpu"))
    write_and_compare(client, router, drawn, batch, space, tolerance=EMBEDDED_TOLERANCE)


@in_a_database
@given(
    st.lists(
        st.fixed_dictionaries(
            {"vector": vectors_of(DIMENSION)}, optional={"text": texts, "metadata": metadatas, "uri": texts}
        ),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from([3, 1_000]),
)
def test_what_goes_in_comes_back_in_mode_user_provided(
    client: ClientAPI, rows: list[dict[str, Any]], batch: int
) -> None:
    router = EmbeddingRouter(EmbeddingConfig(mode="user_provided"))
    ids = [str(place) for place in range(len(rows))]
    write_and_compare(client, router, (ids, [("add", dict(enumerate(rows)))]), batch, "l2")


@in_a_database
@given(st.lists(drawn_records(DIMENSION, "upsert"), min_size=1, max_size=7), st.sampled_from([3, 1_000]))
def test_a_record_object_and_a_dict_store_the_same(client: ClientAPI, rows: list[dict[str, Any]], batch: int) -> None:
    dicts = [{"id": str(place), **row} for place, row in enumerate(rows)]
    expected: Content = {}
    store(expected, MOCK, dicts)

    collection = new_collection(client, MOCK, batch, "l2")
    collection.upsert(Record(**each) for each in dicts)

    assert_stored(collection, expected, tolerance=0.0)


@in_a_database
@given(
    vectors_of(DIMENSION), st.sampled_from(["list", "tuple", "float64", "float32", "strided", "fortran", "readonly"])
)
def test_a_provided_vector_is_stored_as_float32_in_whatever_form_it_comes(
    client: ClientAPI, numbers: list[float], form: str
) -> None:
    array = np.asarray(numbers, dtype=np.float32)
    readonly = array.copy()
    readonly.setflags(write=False)
    forms: dict[str, Any] = {
        "list": numbers,
        "tuple": tuple(numbers),
        "float64": array.astype(np.float64),
        "float32": array,
        "strided": np.repeat(array, 2)[::2],
        "fortran": np.asfortranarray(np.stack([array, array]))[1],
        "readonly": readonly,
    }
    collection = new_collection(client, MOCK, 1_000, "l2")
    collection.add([{"id": "a", "vector": forms[form]}, {"id": "b", "text": "moon"}])

    np.testing.assert_array_equal(read(collection)["a"]["vector"], array)


def test_a_key_that_changes_its_type_has_the_new_value_alone(client: ClientAPI) -> None:
    values: list[Any] = ["one", 1, 1.0, True, ["one", "two"], [1, 2], "again", None, 2.5]
    collection = new_collection(client, MOCK, 1_000)
    collection.add([{"id": "a", "text": "moon", "metadata": {"stays": 7}}])
    for method in ("update", "upsert"):
        for value in values:
            getattr(collection, method)([{"id": "a", "text": "moon", "metadata": {"changes": value}}])

            expected = {"stays": 7} if value is None else {"stays": 7, "changes": value}
            assert same_values(read(collection)["a"]["metadata"], expected), (method, value)


@pytest.mark.parametrize("number", [1e-45, 1e-30, 1e-23, 1e19, 1e30, 3e38])
def test_a_vector_whose_length_float32_cannot_hold_is_refused(client: ClientAPI, number: float) -> None:
    """Chroma would store it as zero, or as NaN."""
    collection = new_collection(client, MOCK, 1_000, "cosine")

    with pytest.raises(RecordError, match=r"Record 1 \(id 'b'\): its vector has the length"):
        collection.upsert([{"id": "a", "text": "moon"}, {"id": "b", "vector": [number] * DIMENSION}])

    assert collection.count() == 0


def test_the_last_key_can_be_deleted(client: ClientAPI) -> None:
    collection = new_collection(client, MOCK, 1_000)
    collection.add([{"id": "a", "text": "moon", "uri": "file:///a", "metadata": {"only": 1}}])

    collection.update([{"id": "a", "metadata": {"only": None}}])

    entry = read(collection)["a"]
    assert (entry["metadata"], entry["text"], entry["uri"]) == ({}, "moon", "file:///a")


def test_a_new_text_replaces_a_provided_vector_and_a_uri_alone_replaces_nothing_else(client: ClientAPI) -> None:
    vector = [1.0] + [0.0] * (DIMENSION - 1)
    collection = new_collection(client, MOCK, 1_000, "l2")
    collection.add([{"id": "a", "text": "moon", "vector": vector, "metadata": {"k": 1}}])

    collection.update([{"id": "a", "uri": "file:///a"}])
    np.testing.assert_array_equal(read(collection)["a"]["vector"], np.asarray(vector, dtype=np.float32))
    collection.update([{"id": "a", "text": "sun"}])

    entry = read(collection)["a"]
    np.testing.assert_array_equal(entry["vector"], MOCK.embed(["sun"])[0])
    assert (entry["text"], entry["uri"], entry["metadata"]) == ("sun", "file:///a", {"k": 1})


# --- One bad record ----------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str]] = {
    "no id": ({"text": "x"}, "it has no id"),
    "an empty id": ({"id": "", "text": "x"}, "its id is empty"),
    "an id that is a number": ({"id": 7, "text": "x"}, "its id is of type int, not str"),
    "an id with half a character": ({"id": "\ud83d", "text": "x"}, "its id holds the lone surrogate"),
    "an id that is there": ({"id": "old", "text": "x", "vector": [0.0] * DIMENSION}, "its vector is zero"),
    "an id given twice": ({"id": "new-0", "text": "x"}, "its id is that of record"),
    "neither text nor vector": ({"id": "bad"}, "it has neither text nor vector"),
    "only metadata": ({"id": "bad", "metadata": {"k": 1}}, "it has neither text nor vector"),
    "a text that is a number": ({"id": "bad", "text": 7}, "its text is of type int, not str"),
    "a text with half a character": ({"id": "bad", "text": "a\udc00"}, "its text holds the lone surrogate"),
    "a uri that is a number": ({"id": "bad", "text": "x", "uri": 7}, "its uri is of type int, not str"),
    "a wide vector": ({"id": "bad", "vector": [1.0] * (DIMENSION + 1)}, "its vector has 17 dimensions"),
    "a narrow vector": ({"id": "bad", "vector": [1.0]}, "its vector has 1 dimensions"),
    "an empty vector": ({"id": "bad", "vector": []}, r"its vector has the shape \(0,\)"),
    "a nested vector": ({"id": "bad", "vector": [[1.0] * DIMENSION]}, r"its vector has the shape \(1, 16\)"),
    "a vector of texts": ({"id": "bad", "vector": ["1"] * DIMENSION}, "its vector holds values that are no numbers"),
    "a NaN": ({"id": "bad", "vector": [math.nan] + [1.0] * (DIMENSION - 1)}, "its vector holds nan at position 0"),
    "a number beyond float32": (
        {"id": "bad", "vector": [1.0, 1e39] + [1.0] * (DIMENSION - 2)},
        "its vector holds inf at position 1",
    ),
    "a zero vector": ({"id": "bad", "vector": [0.0] * DIMENSION}, "its vector is zero"),
    "an unknown key": ({"id": "bad", "text": "x", "document": "x"}, "unknown key 'document'. Did you mean 'text'"),
    "metadata that is a list": ({"id": "bad", "text": "x", "metadata": [1]}, "its metadata is a list, not a dict"),
    "a reserved key": ({"id": "bad", "text": "x", "metadata": {"chroma:document": "y"}}, "has the key 'chroma:doc"),
    "a key that is a number": ({"id": "bad", "text": "x", "metadata": {7: "y"}}, "has the key 7, which is a int"),
    "a NaN in the metadata": ({"id": "bad", "text": "x", "metadata": {"k": math.nan}}, "has nan under 'k'"),
    "a large number": ({"id": "bad", "text": "x", "metadata": {"k": 2**63}}, "under 'k', which has more than 64 bits"),
    "a dict in the metadata": ({"id": "bad", "text": "x", "metadata": {"k": {}}}, "has {} under 'k', a dict"),
    "an empty list": ({"id": "bad", "text": "x", "metadata": {"k": []}}, r"has \[\] under 'k'"),
    "a list of two types": ({"id": "bad", "text": "x", "metadata": {"k": [1, "a"]}}, r"has \[1, 'a'\] under 'k'"),
    "no record at all": (None, "it is of type NoneType, not a record"),
    "a text for a record": ("x", "it is of type str, not a record"),
}


@in_a_database
@example(rows=[{"text": "moon"}], kind="a wide vector", place=0, batch=1, filled=False)
@given(
    rows=st.lists(drawn_records(DIMENSION, "upsert"), min_size=1, max_size=6),
    kind=st.sampled_from(sorted(BAD)),
    place=st.integers(0, 6),
    batch=st.sampled_from([1, 3, 1_000]),
    filled=st.booleans(),
)
def test_any_mixture_with_one_bad_record_writes_nothing(
    client: ClientAPI, rows: list[dict[str, Any]], kind: str, place: int, batch: int, filled: bool
) -> None:
    assert_refused(client, rows, kind, place, batch, filled)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named_by_place_id_and_reason(client: ClientAPI, kind: str) -> None:
    rows: list[dict[str, Any]] = [{"text": "moon"}, {"vector": [1.0] * DIMENSION}, {"text": "sun", "uri": "u"}]
    assert_refused(client, rows, kind, 2, 3, True)


def assert_refused(
    client: ClientAPI, rows: list[dict[str, Any]], kind: str, place: int, batch: int, filled: bool
) -> None:
    bad, match = BAD[kind]
    records: list[Any] = [{"id": f"new-{index}", **row} for index, row in enumerate(rows)]
    records.insert(place, bad)
    for method in ("upsert", "add"):
        collection = new_collection(client, MOCK, batch)
        if filled:
            collection.add([{"id": "old", "text": "old", "uri": "u", "metadata": {"k": [1, 2]}}])
        before, metadata = read(collection), collection.metadata

        with pytest.raises(RecordError, match=match) as caught:
            getattr(collection, method)(records)

        [problem] = caught.value.problems
        assert records[problem.index] is bad or kind == "an id given twice"
        assert_unchanged(client, collection, before, metadata)


@in_a_database
@given(
    rows=st.lists(drawn_records(DIMENSION, "update"), min_size=1, max_size=6),
    place=st.integers(0, 6),
    batch=st.sampled_from([1, 3, 1_000]),
    method=st.sampled_from(["add", "update"]),
)
def test_one_id_that_is_there_for_add_or_is_not_for_update_writes_nothing(
    client: ClientAPI, rows: list[dict[str, Any]], place: int, batch: int, method: str
) -> None:
    stored = [{"id": f"stored-{index}", "text": f"old {index}"} for index in range(len(rows) + 1)]
    prefix, other = ("stored", "missing") if method == "update" else ("missing", "stored")
    complete = [row if method == "update" else {"text": "new", **row} for row in rows]
    records = [{"id": f"{prefix}-{index}", **row} for index, row in enumerate(complete)]
    records.insert(place, {"id": f"{other}-0", "text": "new"})
    match = "it is not in the collection" if method == "update" else "it is in the collection already"
    collection = new_collection(client, MOCK, batch)
    collection.add(stored)
    before, metadata = read(collection), collection.metadata

    with pytest.raises(RecordError, match=match) as caught:
        getattr(collection, method)(records)

    assert [problem.id for problem in caught.value.problems] == [f"{other}-0"]
    assert_unchanged(client, collection, before, metadata)


def test_every_bad_record_of_a_call_is_named(client: ClientAPI) -> None:
    kinds = [kind for kind in BAD if kind not in ("an id given twice", "an id that is there")]
    records: list[Any] = [{"id": "good", "text": "moon"}]
    for index, kind in enumerate(kinds):
        bad = BAD[kind][0]
        records.append({**bad, "id": f"bad-{index}"} if isinstance(bad, dict) and bad.get("id") == "bad" else bad)
    collection = new_collection(client, MOCK, 3)
    with pytest.raises(RecordError, match=f"{len(kinds)} problems in {len(records)} records") as caught:
        collection.upsert(records)

    assert [problem.index for problem in caught.value.problems] == list(range(1, len(records)))
    assert_unchanged(client, collection, {}, collection.metadata)


def assert_unchanged(client: ClientAPI, collection: RoutedCollection, before: Content, metadata: Any) -> None:
    after = read(collection)
    assert after.keys() == before.keys()
    for id, entry in before.items():
        np.testing.assert_array_equal(after[id]["vector"], entry["vector"])
        assert {**after[id], "vector": None} == {**entry, "vector": None}
    stored = client.get_collection(collection.name)
    assert stored.metadata == metadata
    # A width that a failed write leaves behind could never be changed again.
    assert (stored.get_model()["dimension"] is None) == (not before)


def test_a_failed_embedding_writes_nothing(client: ClientAPI) -> None:
    config = EmbeddingConfig(model_name="builtin", max_tokens=4, on_long_text="error", device="cpu")
    router = EmbeddingRouter(config)
    collection = new_collection(client, router, 1)
    vector = [1.0] * 256
    with pytest.raises(RecordError, match=r"its text has .* tokens, but the limit is 4") as caught:
        collection.upsert([{"id": "a", "vector": vector}, {"id": "b", "text": "a b c d e f g"}])

    assert [(each.index, each.id) for each in caught.value.problems] == [(1, "b")]
    assert read(collection) == {}
    relaxed = EmbeddingRouter(dataclasses.replace(config, on_long_text="truncate"))
    assert relaxed.collection(client, collection.name).count() == 0

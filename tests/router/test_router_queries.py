"""Queries: by text or vector, checked against the collection first, with typed results."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np
import pytest
from chromadb.api import ClientAPI

from chroma_mlx import EmbeddingRouter
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.errors import DimensionMismatch, InputError
from chroma_mlx.router import Hit, Hits, RoutedCollection

WIDTH = 8
AXES = np.eye(WIDTH, dtype=np.float32)


def fail(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the model was called")


@pytest.fixture
def filled(collection: RoutedCollection) -> RoutedCollection:
    """Three texts and a vector without one."""
    collection.upsert(
        [
            {
                "id": "moon",
                "text": "the moon orbits the earth",
                "metadata": {"kind": "moon", "n": 1},
                "uri": "file:moon",
            },
            {"id": "sun", "text": "the sun is a star", "metadata": {"kind": "star", "n": 2}},
            {"id": "vega", "text": "vega is another star", "metadata": {"kind": "star", "n": 3}},
            {"id": "bare", "vector": AXES[0]},
        ]
    )
    return collection


def test_the_text_itself_is_found_first(filled: RoutedCollection) -> None:
    hits = filled.query("the sun is a star", n_results=2)

    assert len(hits) == 2
    assert hits[0].id == hits.ids[0] == "sun"
    assert hits[0].text == "the sun is a star"
    assert hits[0].metadata == {"kind": "star", "n": 2}
    assert hits[0].uri is None
    assert hits[0].vector is None
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert hits[0].distance <= hits[1].distance


def test_the_model_finds_by_meaning(client: ClientAPI, name: str) -> None:
    collection = EmbeddingRouter(model_name="builtin").collection(client, name)
    collection.upsert(
        [{"id": "cat", "text": "Cats sleep most of the day."}, {"id": "tax", "text": "Taxes are due in April."}]
    )

    assert collection.query("When do I have to pay taxes?").ids == ["tax", "cat"]


def test_a_vector_is_found_as_it_is(filled: RoutedCollection) -> None:
    [hit] = filled.query(vector=AXES[0] * 3, n_results=1, include_vectors=True)

    assert (hit.id, hit.text, dict(hit.metadata), hit.uri) == ("bare", None, {}, None)
    assert hit.vector is not None
    assert hit.vector.dtype == np.float32
    np.testing.assert_allclose(hit.vector, AXES[0], atol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"text": "a", "vector": AXES[0]}, {"text": None, "vector": None}])
def test_a_query_takes_a_text_or_a_vector(filled: RoutedCollection, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="A query needs a text or a vector, and one of them alone"):
        filled.query(**arguments)


@pytest.mark.parametrize("n_results", [0, -1, True, 1.0, "3", None])
def test_n_results_is_a_count(filled: RoutedCollection, n_results: Any) -> None:
    with pytest.raises(InputError, match=r"n_results is .* Pass a whole number of 1 or more"):
        filled.query("moon", n_results=n_results)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (7, "query takes one text, and got a int"),
        (["moon"], "query takes one text, and got a list"),
        ("half \ud83d", "Text 0 holds the lone surrogate"),
    ],
)
def test_a_query_that_is_no_text_is_refused(filled: RoutedCollection, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        filled.query(text)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([math.nan] * WIDTH, "Query vector 0 is not finite"),
        ([math.inf] * WIDTH, "Query vector 0 is not finite"),
        ([1e39] * WIDTH, "Query vector 0 is not finite"),
        ([0.0] * WIDTH, "Query vector 0 is zero"),
        ([], "Query vector 0 has the shape|Query vector 0 is empty"),
        ([[1.0] * WIDTH], r"Query vector 0 has the shape \(1, 8\)"),
        ([True] * WIDTH, r"Query vector 0 holds values that are no numbers \(bool\)"),
        (["1"] * WIDTH, "Query vector 0 holds values that are no numbers"),
        ("moon", "Query vector 0 is a str"),
        ([[1.0], [1.0, 2.0]], "Query vector 0 is no array of numbers"),
    ],
)
def test_a_query_vector_that_is_none_is_refused(filled: RoutedCollection, vector: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        filled.query(vector=vector)


@pytest.mark.parametrize("width", [1, WIDTH - 1, WIDTH + 1, 256])
def test_a_query_vector_of_another_width_is_refused(filled: RoutedCollection, width: int) -> None:
    with pytest.raises(DimensionMismatch, match=f"stores 8-d vectors, but .* {width}") as caught:
        filled.query(vector=[1.0] * width)

    assert (caught.value.expected, caught.value.got) == (WIDTH, width)


def test_a_query_vector_of_another_width_is_refused_without_a_model(
    client: ClientAPI, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = EmbeddingRouter(model_name="builtin").collection(client, name)
    collection.upsert([{"id": "a", "vector": np.ones(256)}])
    monkeypatch.setattr(Encoder, "embed", fail)

    with pytest.raises(DimensionMismatch, match=r"stores 256-d vectors, but .* 8 dimensions"):
        collection.query(vector=[1.0] * WIDTH)
    assert collection.query(vector=np.ones(256)).ids == ["a"]


def test_filters_narrow_the_search_as_in_chroma(filled: RoutedCollection) -> None:
    assert set(filled.query("star", where={"kind": "star"}).ids) == {"sun", "vega"}
    assert filled.query("star", where={"$and": [{"kind": "star"}, {"n": {"$gt": 2}}]}).ids == ["vega"]
    assert filled.query("star", where_document={"$contains": "orbits"}).ids == ["moon"]
    assert set(filled.query("star", ids=["moon", "bare"]).ids) == {"moon", "bare"}
    assert set(filled.query("star", ids=("sun",)).ids) == {"sun"}
    assert filled.query(vector=AXES[0], where={"kind": "comet"}).ids == []


def test_one_id_is_not_taken_for_a_list_of_letters(filled: RoutedCollection) -> None:
    filled.upsert([{"id": letter, "text": letter} for letter in "sun"])

    with pytest.raises(InputError, match="ids"):
        filled.query("star", ids="sun")


def test_more_results_than_records_gives_all_records(filled: RoutedCollection) -> None:
    assert sorted(filled.query("star", n_results=1000).ids) == ["bare", "moon", "sun", "vega"]


@pytest.mark.parametrize("settings", [{"mode": "mock", "dimension": 8}, {"model_name": "builtin"}])
def test_an_empty_collection_gives_no_hits(client: ClientAPI, name: str, settings: dict[str, Any]) -> None:
    collection = EmbeddingRouter(**settings).collection(client, name)

    by_text, by_vector = collection.query("moon"), collection.query(vector=[1.0, 0.0])

    assert (len(by_text), len(by_vector)) == (0, 0)
    assert not by_text
    assert (by_text.ids, by_text.rows(), str(by_text)) == ([], [], "nothing found")


def test_many_texts_give_hits_in_their_order(filled: RoutedCollection) -> None:
    found = filled.query_batch(["vega is another star", "the moon orbits the earth"], n_results=1)

    assert [hits.ids for hits in found] == [["vega"], ["moon"]]


@pytest.mark.parametrize("form", [list, tuple, np.asarray], ids=["list", "tuple", "array"])
def test_many_vectors_give_hits_in_their_order(filled: RoutedCollection, mock: EmbeddingRouter, form: Any) -> None:
    vectors = mock.embed(["vega is another star", "the moon orbits the earth"])

    found = filled.query_batch(vectors=form(vectors), n_results=1)

    assert [hits.ids for hits in found] == [["vega"], ["moon"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "There is no text to embed: the list is empty"),
        ({"texts": "moon"}, "one str, not a list"),
        ({"texts": ["moon", None]}, "Text 1 is None, not a str"),
        ({"vectors": []}, "There is no vector to query by: the list is empty"),
        ({"vectors": [AXES[0], [math.nan] * WIDTH]}, "Query vector 1 is not finite"),
        ({"vectors": AXES[0].tolist()}, r"Query vector 0 has the shape \(\)"),
        ({"vectors": np.empty((0, WIDTH))}, "There is no vector to query by"),
        ({"texts": ["moon"], "vectors": [AXES[0]]}, "one of them alone"),
    ],
)
def test_a_batch_of_queries_is_checked(filled: RoutedCollection, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        filled.query_batch(**arguments)


@pytest.mark.parametrize(("space", "distance"), [("cosine", 0.4), ("ip", 0.4), ("l2", 0.8)])
def test_similarity_is_the_cosine_where_the_space_has_one(
    client: ClientAPI, name: str, space: str, distance: float
) -> None:
    router = EmbeddingRouter(mode="user_provided")
    collection = router.collection(client, name, configuration={"hnsw": {"space": space}})
    collection.upsert([{"id": "a", "vector": [1.0, 0.0]}])

    [hit] = collection.query(vector=[0.6, 0.8])

    assert hit.distance == pytest.approx(distance, abs=1e-5)
    if space == "l2":
        assert hit.similarity is None
    else:
        assert hit.similarity == pytest.approx(0.6, abs=1e-5)


def test_hits_are_a_sequence(filled: RoutedCollection) -> None:
    hits = filled.query("the sun is a star", n_results=3)

    assert [hit.id for hit in hits] == hits.ids
    assert hits[-1].id == hits.ids[-1]
    assert [hit.id for hit in hits[:2]] == hits.ids[:2]
    assert hits[0] in hits
    with pytest.raises(IndexError, match="out of range"):
        hits[3]


def test_rows_are_dicts_with_the_vector_where_it_was_asked_for(filled: RoutedCollection) -> None:
    [plain] = filled.query("the moon orbits the earth", n_results=1).rows()
    [full] = filled.query("the moon orbits the earth", n_results=1, include_vectors=True).rows()

    assert list(plain) == ["id", "distance", "similarity", "text", "metadata", "uri"]
    assert plain["metadata"] == {"kind": "moon", "n": 1}
    assert (plain["id"], plain["uri"]) == ("moon", "file:moon")
    assert full["vector"].shape == (WIDTH,)


def hit(id: str, text: str | None, *, uri: str | None = None, similarity: float | None = 0.5) -> Hit:
    return Hit(id=id, distance=0.25, similarity=similarity, text=text, metadata={}, uri=uri)


def test_hits_print_as_a_table_of_a_line_each() -> None:
    hits = Hits((hit("a", "two\nlines"), hit("long", None, uri="file:b"), hit("c", None, similarity=None)))

    assert str(hits).splitlines() == [
        " 0.5000  a     two lines",
        " 0.5000  long  file:b",
        "distance 0.2500  c     ",
    ]


def test_a_long_text_is_printed_to_its_first_words() -> None:
    [line] = str(Hits((hit("a", "word " * 1000),))).splitlines()

    assert line.endswith(" …")
    assert "word word" in line
    assert len(line) < 100


def test_a_long_text_of_one_word_is_printed_to_its_first_letters() -> None:
    [line] = str(Hits((hit("a", "月" * 1000),))).splitlines()

    assert "月月月" in line
    assert len(line) < 100

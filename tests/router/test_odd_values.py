"""Values of kinds that look like what is asked for, and are a little else."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import pytest
from chromadb.base_types import SparseVector

from chroma_mlx.errors import InputError, RecordError
from chroma_mlx.router import RoutedCollection


class Number(enum.IntEnum):
    ONE = 1


class Colour(str, enum.Enum):
    RED = "red"


def test_members_of_enumerations_are_stored_as_their_values(collection: RoutedCollection) -> None:
    metadata: dict[str, Any] = {
        "number": Number.ONE,
        "colour": Colour.RED,
        "numpy": np.int64(3),
        "half": np.float32(0.5),
    }
    collection.upsert([{"id": Colour.RED, "text": Colour.RED, "metadata": metadata}])

    got = collection.get()
    assert (got["ids"], got["documents"]) == (["red"], ["red"])
    assert got["metadatas"] == [{"number": 1, "colour": "red", "numpy": 3, "half": 0.5}]
    with pytest.raises(RecordError, match="its id is that of record 0 too"):
        collection.upsert([{"id": "red", "text": "a"}, {"id": Colour.RED, "text": "b"}])


def test_a_sparse_vector_is_named_before_anything_is_written(collection: RoutedCollection) -> None:
    sparse = SparseVector(indices=[1], values=[1.0])
    with pytest.raises(RecordError, match=r"Record 1 .*has a sparse vector under 'k'.*Nothing was written"):
        collection.upsert([{"id": "a", "text": "good"}, {"id": "b", "text": "bad", "metadata": {"k": sparse}}])
    assert collection.count() == 0


def test_a_count_of_numpy_is_a_count(collection: RoutedCollection) -> None:
    collection.upsert([{"id": letter, "text": letter} for letter in "abc"])

    assert len(collection.query("a", n_results=np.int64(2))) == 2  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Pass a whole number of 1 or more"):
        collection.query("a", n_results=2**70)


def test_vectors_to_query_by_may_come_from_a_generator(collection: RoutedCollection) -> None:
    collection.upsert([{"id": "a", "text": "moon"}])

    assert [hits.ids for hits in collection.query_batch(vectors=(row for row in np.eye(8)[:2]))] == [["a"], ["a"]]
    with pytest.raises(InputError, match="The vectors are of type int"):
        collection.query_batch(vectors=5)  # type: ignore[arg-type]


def test_many_texts_in_the_place_of_one_are_told_where_to_go(collection: RoutedCollection) -> None:
    with pytest.raises(InputError, match=r"query takes one text, and got a list.*query_batch"):
        collection.query(["moon"])  # type: ignore[arg-type]

"""What is given to a cosine collection so that it gives back the bits that are wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromadb.api import ClientAPI
from unit_vectors import unit_vectors

from chroma_mlx.collections.same_bits import given_back, to_give

WIDTHS = [1, 2, 8, 256, 1024]


@pytest.mark.parametrize("width", WIDTHS)
def test_chroma_gives_back_what_is_foretold(width: int, source: Path, open_client: Callable[[Path], ClientAPI]) -> None:
    vectors = unit_vectors(300, width) * np.float32(1.7)
    collection = open_client(source).create_collection(
        "cosine", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    ids = [str(place) for place in range(len(vectors))]
    collection.add(ids=ids, embeddings=list(vectors))
    found = collection.get(include=["embeddings"])
    assert found["ids"] == ids
    stored = np.asarray(found["embeddings"], dtype=np.float32)
    assert np.array_equal(stored, given_back(vectors))
    if width > 2:
        assert not np.array_equal(stored, vectors), "Chroma rounds nothing any more, and this module is not needed"


@pytest.mark.parametrize("width", WIDTHS)
def test_of_every_unit_vector_there_is_one_to_give(width: int) -> None:
    wanted = given_back(unit_vectors(2000, width))
    given = to_give(wanted)
    assert np.array_equal(given_back(given), wanted)
    farthest = np.abs(given - wanted).max()
    assert farthest <= 2.5e-7, f"what is given is {farthest:.2e} from what is wanted"


def test_vectors_without_a_length_are_given_as_they_are() -> None:
    wanted = np.array([[0.0, 0.0], [1e30, 1e30], [1e-30, 0.0]], dtype=np.float32)
    assert np.array_equal(to_give(wanted), wanted)

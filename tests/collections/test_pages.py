"""A collection read page by page, alone and while it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection
from unit_vectors import unit_vectors

from chroma_mlx.errors import CollectionChanged
from chroma_mlx.pages import page_records, read_pages

COUNT = 25


@pytest.fixture
def filled(source: Path, open_client: Callable[[Path], ClientAPI]) -> Collection:
    client = open_client(source)
    collection = client.create_collection("notes", embedding_function=None)
    collection.add(ids=ids(COUNT), embeddings=list(unit_vectors(COUNT)), documents=ids(COUNT))
    return client.get_collection("notes")


def ids(count: int, start: int = 0) -> list[str]:
    return [f"r{place}" for place in range(start, start + count)]


@pytest.mark.parametrize("size", [1, 2, 5, 24, 25, 26])
def test_every_record_is_read_once_and_in_order(size: int, filled: Collection) -> None:
    pages = list(read_pages(filled, size=size))
    assert [id for page in pages for id in page.ids] == ids(COUNT)
    assert max(map(len, pages)) == min(size, COUNT)
    read = np.concatenate([page.embeddings for page in pages])
    assert read.dtype == np.float32
    assert np.array_equal(read, unit_vectors(COUNT))


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (7, [5, 2]), (10, [5, 5]), (99, [5] * 5)])
def test_no_more_is_read_than_was_asked_for(limit: int, sizes: list[int], filled: Collection) -> None:
    assert [len(page) for page in read_pages(filled, size=5, limit=limit)] == sizes


def test_an_empty_collection_has_no_page(source: Path, open_client: Callable[[Path], ClientAPI]) -> None:
    assert list(read_pages(open_client(source).create_collection("empty", embedding_function=None))) == []


def test_records_added_meanwhile_come_last(filled: Collection) -> None:
    pages = read_pages(filled, size=10)
    read = list(next(pages).ids)
    filled.add(ids=["a-late-one"], embeddings=list(unit_vectors(1)))
    read += [id for page in pages for id in page.ids]
    assert read == [*ids(COUNT), "a-late-one"]


def test_a_change_moves_no_record(filled: Collection) -> None:
    pages = read_pages(filled, size=10)
    read = list(next(pages).ids)
    filled.update(ids=["r3", "r15"], embeddings=list(unit_vectors(2, seed=1)), documents=["x", "y"])
    rest = list(pages)
    assert read + [id for page in rest for id in page.ids] == ids(COUNT)
    assert rest[0].documents[5] == "y"


@pytest.mark.parametrize("removed", ["r0", "r9"])
def test_a_removal_before_the_place_that_is_read_is_noticed(removed: str, filled: Collection) -> None:
    pages = read_pages(filled, size=10)
    next(pages)
    filled.delete(ids=[removed])
    with pytest.raises(CollectionChanged, match="Records were removed from collection 'notes' while it was read"):
        next(pages)


def test_a_removal_of_what_is_yet_to_be_read_does_no_harm(filled: Collection) -> None:
    pages = read_pages(filled, size=10)
    read = list(next(pages).ids)
    filled.delete(ids=["r10", "r24"])
    read += [id for page in pages for id in page.ids]
    assert read == [id for id in ids(COUNT) if id not in ("r10", "r24")]


def test_a_page_of_wide_vectors_has_fewer_records() -> None:
    assert [page_records(width) for width in (None, 8, 4096, 10**9)] == [2000, 2000, 512, 1]

"""The application's tests: no model, no download, the same vectors on every machine."""

import chromadb
import pytest
from notes import Notes

from chroma_mlx import EmbeddingRouter
from chroma_mlx.errors import RecordError


@pytest.fixture
def notes(chroma_mlx_mock: EmbeddingRouter, tmp_path) -> Notes:
    assert chroma_mlx_mock.mode == "mock"
    return Notes(chromadb.PersistentClient(tmp_path))


def test_a_note_is_found_by_a_word_of_its_own(notes: Notes) -> None:
    notes.add("bread", "Knead the dough and bake the bread in a hot oven.")
    notes.add("bicycle", "A squeaking bicycle chain wants oil.")

    assert notes.find("what is wrong with my bicycle?") == "bicycle"


def test_a_note_is_not_overwritten(notes: Notes) -> None:
    notes.add("bread", "Knead the dough.")

    with pytest.raises(RecordError, match=r"'bread'.*is in the collection already"):
        notes.add("bread", "Something else.")

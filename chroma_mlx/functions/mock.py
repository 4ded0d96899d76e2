"""The function of mode `mock`: vectors from a hash of the text, for tests, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from chromadb.api.types import Documents, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from ..errors import ConfigError
from ..models.known import DEFAULT_MODEL, KNOWN_MODELS
from ..rules import COUNT
from ..texts import check_texts
from .saved import SavedFunction
from .word_hash import hash_texts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


DEFAULT_DIMENSION: Final = KNOWN_MODELS[DEFAULT_MODEL].dimension


@register_embedding_function
class MockEmbeddingFunction(SavedFunction):
    """Vectors for tests: instant, of unit length, the same in every process and on every platform.

    They come from a keyed hash of the text's words: equal texts have equal vectors, and texts that share
    words are closer than texts that share none, the more so the longer the words. They know nothing of
    meaning. A query and a document of the same text have the same vector.
    """

    NAME: ClassVar[str] = "chroma_mlx_mock"

    def __init__(self, dimension: int = DEFAULT_DIMENSION) -> None:
        """`dimension` is the width of the vectors, 1 or more. Raises ConfigError for any other."""
        if not COUNT.accepts(dimension):
            raise ConfigError(
                f"dimension is {dimension!r}, which is not allowed. Set it to a whole number of 1 or more."
            )
        self.dimension = dimension

    def __call__(self, input: Documents) -> Embeddings:
        """One float32 array of shape (dimension,) a text. Raises InputError naming a text that is none."""
        return cast(Embeddings, list(self.encode(input)))

    def embed_query(self, input: Documents) -> Embeddings:
        """As for documents."""
        return self(input)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors as one array, (len(texts), dimension) float32. Raises InputError."""
        return hash_texts(check_texts(texts), self.dimension)

    def get_config(self) -> dict[str, Any]:
        """The dimension."""
        return {"dimension": self.dimension}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MockEmbeddingFunction:
        """The function of a saved configuration. Raises ConfigError when it is not valid."""
        return MockEmbeddingFunction(**MockEmbeddingFunction.completed(config, dimension=DEFAULT_DIMENSION))

"""Local MLX embeddings in Chroma.

    import chromadb
    from chroma_mlx import MLXEmbeddingFunction

    collection = chromadb.PersistentClient("data").create_collection("notes", embedding_function=MLXEmbeddingFunction())

Importing this package registers the embedding function with Chroma, so that `get_collection` rebuilds it;
it loads no model, and neither MLX nor transformers.
"""

from __future__ import annotations

from .config import EmbeddingConfig
from .errors import ChromaMLXError
from .functions import MLXEmbeddingFunction, MockEmbeddingFunction, UserProvidedFunction
from .router import EmbeddingRouter, Record

__all__ = [
    "ChromaMLXError",
    "EmbeddingConfig",
    "EmbeddingRouter",
    "MLXEmbeddingFunction",
    "MockEmbeddingFunction",
    "Record",
    "UserProvidedFunction",
    "__version__",
]
__version__ = "0.1.0"

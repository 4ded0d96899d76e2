"""Local MLX embeddings in Chroma.

    import chromadb
    from chroma_mlx import MLXEmbeddingFunction

    collection = chromadb.PersistentClient("data").create_collection("notes", embedding_function=MLXEmbeddingFunction())

Importing this package registers the embedding function with Chroma, so that `get_collection` rebuilds it;
it loads no model, and neither MLX nor transformers.
"""

from __future__ import annotations

from .errors import ChromaMLXError
from .function import MLXEmbeddingFunction

__all__ = ["ChromaMLXError", "MLXEmbeddingFunction", "__version__"]
__version__ = "0.1.0"

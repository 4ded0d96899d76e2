"""Local MLX embeddings in Chroma.

    import chromadb
    from chroma_mlx import MLXEmbeddingFunction

    collection = chromadb.PersistentClient("data").create_collection("notes", embedding_function=MLXEmbeddingFunction())

Importing this package registers its embedding functions with Chroma, so that `get_collection` rebuilds them;
it loads no model, and neither MLX nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import EmbeddingConfig
from .errors import ChromaMLXError
from .functions import MLXEmbeddingFunction, MockEmbeddingFunction, RemoteEmbeddingFunction, UserProvidedFunction

if TYPE_CHECKING:
    from .engine.encoder import shutdown
    from .ingestion import IngestResult, ingest, migrate
    from .router import EmbeddingRouter, Hit, Hits, Record, WriteResult

__all__ = [
    "ChromaMLXError",
    "EmbeddingConfig",
    "EmbeddingRouter",
    "Hit",
    "Hits",
    "IngestResult",
    "MLXEmbeddingFunction",
    "MockEmbeddingFunction",
    "Record",
    "RemoteEmbeddingFunction",
    "UserProvidedFunction",
    "WriteResult",
    "__version__",
    "ingest",
    "migrate",
    "shutdown",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The router, the ingest and the engine, imported when they are first asked for: few programs need all of them."""
    if name in ("EmbeddingRouter", "Hit", "Hits", "Record", "WriteResult"):
        from . import router

        return getattr(router, name)
    if name == "shutdown":
        from .engine.encoder import shutdown

        return shutdown
    if name in ("IngestResult", "ingest", "migrate"):
        from . import ingestion

        return getattr(ingestion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

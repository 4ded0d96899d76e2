"""Ray: embedding and writing as steps of a Ray Data pipeline, and an ingest by several workers (extra `ray`)."""

from ..database import Server
from .embedder import Embedder
from .running import ingest
from .writer import ChromaWriter

__all__ = ["ChromaWriter", "Embedder", "Server", "ingest"]

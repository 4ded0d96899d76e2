"""The router: who makes the vectors, and records with text or vectors into a collection, checked first."""

from .collection import AsyncRoutedCollection, RoutedCollection
from .record import Record
from .report import Health, ModelInfo, Usage, WriteResult
from .results import Hit, Hits
from .router import EmbeddingRouter

__all__ = [
    "AsyncRoutedCollection",
    "EmbeddingRouter",
    "Health",
    "Hit",
    "Hits",
    "ModelInfo",
    "Record",
    "RoutedCollection",
    "Usage",
    "WriteResult",
]

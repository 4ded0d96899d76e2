"""The configuration: its keys, the files and variables it comes from, and who wins."""

from .embedding import Effective, EmbeddingConfig, resolve

__all__ = ["Effective", "EmbeddingConfig", "resolve"]

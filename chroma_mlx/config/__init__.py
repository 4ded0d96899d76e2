"""The configuration: its keys, the files and variables it comes from, and who wins."""

from .embedding import ConfigSource, Effective, EmbeddingConfig, resolve

__all__ = ["ConfigSource", "Effective", "EmbeddingConfig", "resolve"]

"""Chroma's embedding functions, one a mode: translation to and from Chroma, nothing else."""

from .mlx import MLXEmbeddingFunction
from .mock import MockEmbeddingFunction
from .remote import RemoteEmbeddingFunction
from .user_provided import UserProvidedFunction

__all__ = ["MLXEmbeddingFunction", "MockEmbeddingFunction", "RemoteEmbeddingFunction", "UserProvidedFunction"]

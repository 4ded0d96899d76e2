"""An application: it knows nothing of modes or models, which are in embedding_config.yaml."""

from __future__ import annotations

from typing import Any

from chroma_mlx import EmbeddingRouter


class Notes:
    """Notes that are found by what they say."""

    def __init__(self, client: Any) -> None:
        self._collection = EmbeddingRouter().collection(client, "notes")

    def add(self, name: str, text: str) -> None:
        self._collection.add([{"id": name, "text": text}])

    def find(self, question: str) -> str:
        return self._collection.query(question, n_results=1)[0].id

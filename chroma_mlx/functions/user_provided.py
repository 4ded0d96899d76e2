"""The function of mode `user_provided`: it embeds nothing, and says what to pass instead."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from chromadb.api.types import Documents
from chromadb.utils.embedding_functions import register_embedding_function

from ..errors import VectorsOnly
from .saved import SavedFunction


@register_embedding_function
class UserProvidedFunction(SavedFunction):
    """Marks a collection whose vectors are made elsewhere: text without a vector is refused, never embedded.

    (Chroma embeds text with its own default model where a collection has no function.)
    """

    NAME: ClassVar[str] = "chroma_mlx_user_provided"

    def __init__(self) -> None:
        """Takes nothing, and does nothing. (Chroma warns of a function that has no __init__ of its own.)"""

    def __call__(self, input: Documents) -> NoReturn:
        """Raises VectorsOnly."""
        raise VectorsOnly(
            "This collection takes vectors that are made elsewhere (mode 'user_provided'), and text came without one. "
            "Pass `embeddings=` with the documents, one vector for each."
        )

    def embed_query(self, input: Documents) -> NoReturn:
        """Raises VectorsOnly."""
        raise VectorsOnly(
            "This collection takes vectors that are made elsewhere (mode 'user_provided'), and the query is text. Pass "
            "`query_embeddings=`, made by the model that made the stored vectors."
        )

    def get_config(self) -> dict[str, Any]:
        """Nothing: the vectors are the user's."""
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> UserProvidedFunction:
        """The function. Raises ConfigError when the configuration is not empty."""
        UserProvidedFunction.completed(config)
        return UserProvidedFunction()

"""Chroma's embedding function: translation to and from Chroma, nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, cast

import jsonschema
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from .errors import ConfigError
from .models.known import DEFAULT_MODEL
from .settings import MachineSettings, VectorSettings

if TYPE_CHECKING:
    from .engine.encoder import Encoder, Vectors
    from .engine.plan import Kind

NAME = "chroma_mlx"
# It changes no vector, only whether a long text gets one.
CHANGEABLE = frozenset({"on_long_text"})


@register_embedding_function
class MLXEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embeds text with MLX for Chroma: pass it when a collection is created.

    Documents (`add`, `upsert`, `update`) and queries are embedded differently, as the model was trained:
    a query carries the model's instruction. Both give float32 vectors of shape (n, dimension) in the order
    of the texts, of unit length with `normalize`, every value finite.

    Making one is instant: the model is loaded at the first text, once for all functions of one model in
    the process, and may be called from any thread. The settings that determine the vectors are saved with
    the collection; those of the machine (device, cache, batches) are not.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        *,
        dimension: int | None = None,
        pooling: Literal["last", "mean", "cls"] | None = None,
        normalize: bool = True,
        max_tokens: int | None = None,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        on_long_text: Literal["truncate", "error"] = "truncate",
        batch_size: int = 32,
        batch_tokens: int = 16_384,
        device: Literal["auto", "gpu", "cpu"] = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        auto_download: bool = True,
        show_progress: bool | None = None,
    ) -> None:
        """Checks the arguments; loads nothing and asks no network.

        Args:
            model_name: a short name ("builtin", "qwen3-0.6b-4bit", …), a Hub repository id, or a folder.
            dimension: width of the vectors, cut from the full ones (Matryoshka); None is the full width.
            pooling: "last", "mean" or "cls"; None is what the checkpoint declares.
            normalize: whether vectors are scaled to unit length.
            max_tokens: the longest text in tokens, special tokens included; None is the model's own limit.
            query_instruction: what is put before a query. A prefix (it ends in a colon or white space) is
                used as it is; anything else is a task, put into the model's own form where it has one
                (Qwen3: "Instruct: {task}\\nQuery:"); "" is none; None is the checkpoint's own.
            document_instruction: what is put before a document; "" is none, None the checkpoint's own.
            on_long_text: "truncate" cuts a text beyond `max_tokens`, keeping the end token; "error" raises.
            batch_size: most texts in a forward pass.
            batch_tokens: most tokens in a forward pass, padding included.
            device: "gpu", "cpu", or "auto" for the GPU where MLX has one.
            cache_dir: where models are downloaded to; None is the Hugging Face cache.
            auto_download: whether a model that is not cached is fetched at first use.
            show_progress: None shows a bar on a terminal when work takes long.

        Raises ConfigError for an argument that is not allowed.
        """
        self._vectors = VectorSettings(
            model_name=model_name,
            dimension=dimension,
            pooling=pooling,
            normalize=normalize,
            max_tokens=max_tokens,
            query_instruction=query_instruction,
            document_instruction=document_instruction,
            on_long_text=on_long_text,
        )
        self._machine = MachineSettings(
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            device=device,
            cache_dir=cache_dir,
            auto_download=auto_download,
            show_progress=show_progress,
        )

    def __call__(self, input: Documents) -> Embeddings:
        """Embeds documents.

        Returns one float32 array of shape (dimension,) a text: rows of one block, which is what Chroma
        takes fastest. Raises InputError naming the text, ModelNotFound, DownloadError, CheckpointError,
        ConfigError, EngineError, MissingPackage or BLASError; Chroma has stored nothing then.
        """
        return self._embed(input, "document")

    def embed_query(self, input: Documents) -> Embeddings:
        """Embeds queries, behind the model's instruction. Returns and raises as for documents."""
        return self._embed(input, "query")

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """The vectors as one array, (len(texts), dimension) float32; `kind` is "document" or "query".

        Raises what a call raises.
        """
        if kind not in ("document", "query"):
            raise ConfigError(f"kind is {kind!r}, which is not allowed. Set it to 'document' or 'query'.")
        return self._encoder().encode(texts, kind)

    def load(self) -> None:
        """Loads the model now, where the first text would have to wait for it (or fail for want of it).

        Raises what a call raises, except for InputError.
        """
        self._encoder().load()

    def _encoder(self) -> Encoder:
        # Imported here, since a program that only reads a collection needs none of the engine.
        from .engine.encoder import Encoder

        return Encoder(self._vectors, self._machine)

    def _embed(self, texts: Documents, kind: Kind) -> Embeddings:
        return cast(Embeddings, list(self.encode(texts, kind)))

    @staticmethod
    def name() -> str:
        """The name the function is registered under."""
        return NAME

    def default_space(self) -> Space:
        """Cosine: the models are trained for it."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """All three: of unit vectors they give the same order."""
        return ["cosine", "l2", "ip"]

    def is_legacy(self) -> bool:
        """False; Chroma's own answer would build a function to find out."""
        return False

    def get_config(self) -> dict[str, Any]:
        """What determines the vectors, as plain JSON values; nothing of this machine."""
        return self._vectors.to_dict()

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MLXEmbeddingFunction:
        """The function of a saved configuration; keys left out have their defaults.

        Raises ConfigError when the configuration is not valid.
        """
        return MLXEmbeddingFunction(**_completed(config))

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raises ConfigError, naming every problem, unless the configuration fits the schema."""
        problems = [
            f"{'.'.join(map(str, error.absolute_path)) or 'configuration'}: {error.message}"
            for error in _validator().iter_errors(config)
        ]
        if problems:
            raise ConfigError(
                f"The configuration of embedding function {NAME!r} is not valid: {'; '.join(problems)}. If a newer "
                "version of chroma-mlx saved it, upgrade this one."
            )
        VectorSettings(**config)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ConfigError when the change would make vectors that do not match those stored."""
        old, new = (VectorSettings(**_completed(config)).to_dict() for config in (old_config, new_config))
        changed = [key for key in old if old[key] != new[key] and key not in CHANGEABLE]
        if changed:
            changes = ", ".join(f"{key} from {old[key]!r} to {new[key]!r}" for key in changed)
            raise ConfigError(
                f"Changing {changes} would make vectors that do not match those already in the collection. Create a "
                "new collection with the new settings and add the documents again. Chroma stores the new settings "
                "before it asks: call modify again with the old settings to undo that."
            )

    def __eq__(self, other: object) -> bool:
        """Equal when their saved settings are; Chroma compares collections by it."""
        return isinstance(other, MLXEmbeddingFunction) and self._vectors == other._vectors

    def __hash__(self) -> int:
        return hash(self._vectors)

    def __repr__(self) -> str:
        settings = {**self.get_config(), "device": self._machine.device}
        shown = ", ".join(f"{key}={value!r}" for key, value in settings.items() if value is not None)
        return f"MLXEmbeddingFunction({shown})"


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A valid configuration with a model; raises ConfigError for any other."""
    try:
        completed = {"model_name": DEFAULT_MODEL, **config}
    except TypeError:  # no mapping at all, which the validation says in words
        completed = config
    MLXEmbeddingFunction.validate_config(completed)
    return completed


@cache
def _validator() -> jsonschema.Draft7Validator:
    schema = resources.files(__package__).joinpath("schemas").joinpath(f"{NAME}.json").read_text(encoding="utf-8")
    return jsonschema.Draft7Validator(json.loads(schema))

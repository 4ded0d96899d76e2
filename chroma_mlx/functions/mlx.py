"""The function of mode `mlx`: text embedded by the engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

from chromadb.api.types import Documents, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from ..config import EmbeddingConfig, resolve
from ..config.embedding import RULES
from ..settings import MachineSettings, VectorSettings
from ..texts import check_kind, check_timeout
from .saved import SavedFunction

if TYPE_CHECKING:
    from ..engine.encoder import Encoder, Vectors
    from ..engine.plan import Kind


class _FromConfig:
    """Marks an argument that was not given, in words that `help` shows."""

    def __repr__(self) -> str:
        return "<as configured>"


AS_CONFIGURED: Final[Any] = _FromConfig()


@register_embedding_function
class MLXEmbeddingFunction(SavedFunction):
    """Embeds text with MLX for Chroma: pass it when a collection is created.

    Documents (`add`, `upsert`, `update`) and queries are embedded differently, as the model was trained:
    a query carries the model's instruction. Both give float32 vectors of shape (n, dimension) in the order
    of the texts, of unit length with `normalize`, every value finite.

    Making one is instant: the model is loaded at the first text, once for all functions of one model in
    the process, and may be called from any thread. The settings that determine the vectors are saved with
    the collection; those of the machine (device, cache, batches) are not.
    """

    NAME: ClassVar[str] = "chroma_mlx"
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"on_long_text"})

    def __init__(
        self,
        model_name: str = AS_CONFIGURED,
        *,
        dimension: int | None = AS_CONFIGURED,
        pooling: Literal["last", "mean", "cls"] | None = AS_CONFIGURED,
        normalize: bool = AS_CONFIGURED,
        max_tokens: int | None = AS_CONFIGURED,
        query_instruction: str | None = AS_CONFIGURED,
        document_instruction: str | None = AS_CONFIGURED,
        on_long_text: Literal["truncate", "error"] = AS_CONFIGURED,
        batch_size: int = AS_CONFIGURED,
        batch_tokens: int = AS_CONFIGURED,
        batch_timeout_ms: float = AS_CONFIGURED,
        max_queue: int = AS_CONFIGURED,
        max_queue_tokens: int = AS_CONFIGURED,
        queue_policy: Literal["wait", "fail_fast"] = AS_CONFIGURED,
        device: Literal["auto", "gpu", "cpu"] = AS_CONFIGURED,
        own_process: bool | None = AS_CONFIGURED,
        cache_dir: str | os.PathLike[str] | None = AS_CONFIGURED,
        auto_download: bool = AS_CONFIGURED,
        max_cache_gb: float | None = AS_CONFIGURED,
        show_progress: bool | None = AS_CONFIGURED,
        embedding_cache: str | os.PathLike[str] | None = AS_CONFIGURED,
        embedding_cache_gb: float = AS_CONFIGURED,
        config: EmbeddingConfig | str | os.PathLike[str] | None = None,
    ) -> None:
        """Checks the arguments; loads nothing and asks no network.

        An argument that is not given has its value from `config`, else from the configuration file and the
        environment in force, else the default said here.

        Args:
            model_name: a short name ("builtin", "qwen3-0.6b-4bit", …), a Hub repository id, or a folder.
            dimension: width of the vectors, cut from the full ones (Matryoshka); None is the full width.
            pooling: "last", "mean" or "cls"; None is what the checkpoint declares.
            normalize: whether vectors are scaled to unit length (True).
            max_tokens: the longest text in tokens, special tokens included; None is the model's own limit.
            query_instruction: what is put before a query. A prefix (it ends in a colon or white space) is
                used as it is; anything else is a task, put into the model's own form where it has one
                (Qwen3: "Instruct: {task}\\nQuery:"); "" is none; None is the checkpoint's own.
            document_instruction: what is put before a document; "" is none, None the checkpoint's own.
            on_long_text: "truncate" cuts a text beyond `max_tokens`, keeping the end token; "error" raises.
            batch_size, batch_tokens: most texts (128) and tokens (16384; on a CPU 1024) in a forward pass.
            batch_timeout_ms: how long the engine waits for other calls under way to share a forward pass (5).
            max_queue, max_queue_tokens: most texts (4096) and tokens (1048576) of all calls that wait for it.
            queue_policy: beyond them "wait" for room, or "fail_fast": raise QueueFull, with the time to come back.
            device: "gpu", "cpu", or "auto" for the GPU where MLX has one.
            own_process: whether it computes in a process of its own, which no other thread's Python holds up.
            cache_dir, auto_download: where models are fetched to, None the Hugging Face cache; whether at all (True).
            max_cache_gb: the most that models fetched by this package may take, in 10**9 bytes; None is no limit.
            show_progress: None shows a bar on a terminal when work takes long.
            embedding_cache, embedding_cache_gb: a file that keeps vectors, or None, and its bound in 10**9 bytes (1.0).
            config: an EmbeddingConfig, or the path of a file; None looks for one. Its `mode` is not for here.

        Raises ConfigError for an argument or a configuration that is not allowed.
        """
        arguments = {key: value for key, value in locals().items() if key in RULES and value is not AS_CONFIGURED}
        settings = resolve(config, arguments).config
        self._vectors, self._machine = settings.vectors, settings.machine

    def __call__(self, input: Documents) -> Embeddings:
        """Embeds documents.

        Returns one float32 array of shape (dimension,) a text: rows of one block, which is what Chroma
        takes fastest. Raises InputError naming the text, ModelNotFound, DownloadError, CheckpointError,
        ConfigError, EngineError, QueueFull, MissingPackage or BLASError; Chroma has stored nothing then.
        """
        return self._embed(input, "document")

    def embed_query(self, input: Documents) -> Embeddings:
        """Embeds queries, behind the model's instruction. Returns and raises as for documents."""
        return self._embed(input, "query")

    def encode(self, texts: Sequence[str], kind: Kind = "document", *, timeout_s: float | None = None) -> Vectors:
        """The vectors as one array, (len(texts), dimension) float32; `kind` is "document" or "query".

        Raises DeadlineExceeded after `timeout_s` seconds, ConfigError where it is no such time, and what a call raises.
        """
        check_kind(kind)
        check_timeout(timeout_s)
        return self.encoder().encode(texts, kind, timeout_s=timeout_s)

    async def aembed(self, texts: Sequence[str], kind: Kind = "document", *, timeout_s: float | None = None) -> Vectors:
        """As `encode`, without blocking the event loop; when the task is cancelled, what waits is not computed.

        Raises DeadlineExceeded after `timeout_s` seconds, ConfigError where it is no such time, and what a call raises.
        """
        check_kind(kind)
        check_timeout(timeout_s)
        return (await self.encoder().aembed(texts, kind, timeout_s=timeout_s)).vectors

    def load(self) -> None:
        """Loads the model now, where the first text would have to wait for it (or fail for want of it).

        Raises what a call raises, except for InputError.
        """
        self.encoder().load()

    @property
    def settings(self) -> VectorSettings:
        """What determines the vectors."""
        return self._vectors

    @property
    def machine(self) -> MachineSettings:
        """What belongs to the machine, and is not saved."""
        return self._machine

    def encoder(self) -> Encoder:
        """The engine under these settings; making it costs nothing."""
        # Imported here, since a program that only reads a collection needs none of the engine.
        from ..engine.encoder import Encoder

        return Encoder(self._vectors, self._machine)

    def _embed(self, texts: Documents, kind: Kind) -> Embeddings:
        return cast(Embeddings, list(self.encode(texts, kind)))

    def get_config(self) -> dict[str, Any]:
        """What determines the vectors, as plain JSON values; nothing of this machine."""
        return self._vectors.to_dict()

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MLXEmbeddingFunction:
        """The function of a saved configuration; keys left out have their defaults.

        What determines the vectors is the collection's; the settings of the machine are those configured
        here. Raises ConfigError when either is not valid.
        """
        return MLXEmbeddingFunction(**MLXEmbeddingFunction.completed(config, **VectorSettings().to_dict()))

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Raises ConfigError, naming every problem, unless the configuration is one of these settings."""
        super().validate_config(config)
        VectorSettings(**config)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, device={self._machine.device!r})"

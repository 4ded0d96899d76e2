"""`EmbeddingRouter`: one configuration decides who makes the vectors."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config import resolve
from ..config.embedding import ConfigSource, Mode
from ..errors import ConfigError, DownloadError, FallbackWarning, MissingPackage
from ..functions.saved import SavedFunction
from ..texts import check_kind
from .collection import AsyncRoutedCollection, RoutedCollection
from .embedders import Embedder, MLXEmbedder, MockEmbedder, QueryFunction, UserProvidedEmbedder
from .opening import open_target
from .report import Health, ModelInfo, Usage, UsageCounter
from .steps import run, run_async

if TYPE_CHECKING:
    from ..engine.encoder import Embedded, Vectors
    from ..engine.plan import Kind
    from ..engine.stats import Stats


class EmbeddingRouter:
    """Makes vectors as the configuration says, and puts records with text or vectors into collections.

    Modes: "mlx" embeds text with the engine; "user_provided" never loads a model, vectors come with the
    records; "mock" hashes the text's words, for tests. Making a router is instant: nothing is loaded or
    fetched before the first text. Safe from any thread.
    """

    def __init__(
        self, config: ConfigSource = None, *, query_function: QueryFunction | None = None, **settings: Any
    ) -> None:
        """Resolves the configuration.

        Args:
            config: an EmbeddingConfig, the path of a file, or None to look for one (CHROMA_MLX_CONFIG,
                ./embedding_config.yaml, the user's own, the defaults).
            query_function: what turns a list of query texts into vectors (n, dimension), made by the model
                that made the stored ones. Used in mode "user_provided" alone, so that an application may
                pass it whatever the mode is configured to be.
            settings: single keys of the configuration, above all else: mode="mock", dimension=256, …

        Raises ConfigError with every problem at once.
        """
        self.config = resolve(config, settings).config
        self._query_function = query_function
        self._usage = UsageCounter()
        self._lock = threading.Lock()
        self._fallback_reason: str | None = None
        self._chosen: Embedder | None = None if self.config.fallback == "mock" else self._configured()

    @property
    def mode(self) -> Mode:
        """The mode in force: the configured one, or "mock" once the fallback has taken its place."""
        return "mock" if isinstance(self._chosen, MockEmbedder) else self.config.mode

    @property
    def embedding_function(self) -> SavedFunction:
        """What Chroma takes when a collection is created; saved and rebuilt with it.

        With `fallback: mock` this is where it is decided, which may fetch the model.
        """
        return self._embedder.function

    @property
    def usage(self) -> Usage:
        """What went through this router's collections and `embed` so far."""
        return self._usage.usage

    def with_mode(self, mode: Mode) -> EmbeddingRouter:
        """A router of the same configuration in another mode. Raises ConfigError."""
        return EmbeddingRouter(dataclasses.replace(self.config, mode=mode), query_function=self._query_function)

    def collection(
        self, client: Any, name: str, *, create: bool = True, same_space: bool = False, **chroma_arguments: Any
    ) -> RoutedCollection:
        """The collection `name` of a plain client, made if there is none.

        Args:
            client: EphemeralClient, PersistentClient, HttpClient or CloudClient.
            name: the collection's name.
            create: whether a collection that is not there is made.
            same_space: opens a collection although it was made with another model or mode: you state that
                its vectors compare with this router's (4-bit and bfloat16 weights of one model, say).
                Before the first text a few of the stored ones are embedded anew to see whether that is so;
                where none has a text, UncheckedSpace warns of it.
            chroma_arguments: those of `create_collection` (metadata, configuration, schema, …), used when
                the collection is made.

        Raises CollectionMismatch, DimensionMismatch, ConfigError, ModelNotFound, and chromadb's NotFoundError
        without `create`.
        """
        if _is_asynchronous(client):
            raise ConfigError("This client is asynchronous. Use `await router.async_collection(client, name)`.")
        steps = open_target(
            client, name, self._embedder, self._usage, create=create, same_space=same_space, arguments=chroma_arguments
        )
        return RoutedCollection(run(steps))

    async def async_collection(
        self, client: Any, name: str, *, create: bool = True, same_space: bool = False, **chroma_arguments: Any
    ) -> AsyncRoutedCollection:
        """As `collection`, for AsyncHttpClient."""
        if not _is_asynchronous(client):
            raise ConfigError("This client is not asynchronous. Use `router.collection(client, name)`.")
        embedder = await asyncio.to_thread(lambda: self._embedder)  # deciding on the fallback may fetch a model
        steps = open_target(
            client, name, embedder, self._usage, create=create, same_space=same_space, arguments=chroma_arguments
        )
        return AsyncRoutedCollection(await run_async(steps))

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """The vectors of `texts` alone: (len(texts), dimension) float32; `kind` is "document" or "query".

        Raises what the mode's function raises.
        """
        check_kind(kind)
        started = time.perf_counter()
        return self._count(self._embedder.embed(texts, kind), kind, started)

    async def aembed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """As `embed`, without blocking the event loop."""
        check_kind(kind)
        started = time.perf_counter()
        embedder = await asyncio.to_thread(lambda: self._embedder) if self._chosen is None else self._chosen
        return self._count(await embedder.aembed(texts, kind), kind, started)

    def stats(self) -> Stats:
        """What the engine of this process did and holds: plain numbers, with p50, p95 and p99.

        Of all functions and routers in the process, since they share one engine; `usage` is this router's own.
        """
        from ..engine.stats import take_stats

        return take_stats()

    def _count(self, embedded: Embedded, kind: Kind, started: float) -> Vectors:
        counted = {"queries" if kind == "query" else "embedded": len(embedded.vectors)}
        self._usage.add(**counted, tokens=embedded.tokens, milliseconds=(time.perf_counter() - started) * 1000)
        return embedded.vectors

    def load(self) -> None:
        """Fetches and loads the model now, where the first text would have to wait for it. Nothing in other modes."""
        self._embedder.fingerprint(load=True)

    def model_info(self) -> ModelInfo:
        """What is known of the model; loads and fetches nothing (call `load` first to know its device and memory)."""
        return (self._chosen or self._configured()).info()

    def health_check(self) -> Health:
        """Embeds a short text and says whether that worked. Fetches nothing, and raises nothing.

        Where the model is not to be had and `fallback: mock` is set, mock vectors are healthy, and said to be such.
        """
        started = time.perf_counter()
        mode: str = self.mode
        try:
            try:
                detail, healthy = (self._chosen or self._configured()).probe(), True
            except (DownloadError, MissingPackage) as error:
                if self.config.fallback != "mock":
                    raise
                mode, detail, healthy = "mock", f"mock vectors take the model's place (fallback): {error}", True
            else:
                detail += f" (fallback: {self._fallback_reason})" if self._fallback_reason else ""
        except Exception as error:  # whatever is wrong is what is asked for
            detail, healthy = str(error) or type(error).__name__, False
        return Health(healthy=healthy, mode=mode, detail=detail, milliseconds=(time.perf_counter() - started) * 1000)

    def __repr__(self) -> str:
        return f"EmbeddingRouter(mode={self.config.mode!r}, model_name={self.config.model_name!r})"

    @property
    def _embedder(self) -> Embedder:
        """Who makes the vectors; with a fallback, decided when it is first asked, since that may fetch a model."""
        if self._chosen is None:
            with self._lock:
                if self._chosen is None:
                    self._chosen = self._available()
        return self._chosen

    def _configured(self) -> Embedder:
        if self.config.mode == "mlx":
            return MLXEmbedder(self.config)
        if self.config.mode == "mock":
            return MockEmbedder(self.config)
        return UserProvidedEmbedder(self.config, self._query_function)

    def _available(self) -> Embedder:
        embedder = self._configured()
        if not isinstance(embedder, MLXEmbedder):
            return embedder
        try:
            embedder.fetch()
        except (DownloadError, MissingPackage) as error:
            self._fallback_reason = str(error)
            warnings.warn(
                "Vectors are mock ones, good for tests alone, since `fallback: mock` is set and the model is not to "
                f"be had: {error}",
                FallbackWarning,
                stacklevel=4,
            )
            return MockEmbedder(self.config)
        return embedder


def _is_asynchronous(client: Any) -> bool:
    """Whether a client's calls are awaited. Raises ConfigError for what is no client."""
    if inspect.isawaitable(client):
        raise ConfigError("The client was not awaited. Make it by `await chromadb.AsyncHttpClient(…)`.")
    if not callable(getattr(client, "get_collection", None)):
        raise ConfigError(
            f"The client is of type {type(client).__name__}, which is no client of Chroma. Pass what "
            "chromadb.PersistentClient, HttpClient, EphemeralClient, CloudClient or AsyncHttpClient returns."
        )
    return inspect.iscoroutinefunction(client.get_collection)

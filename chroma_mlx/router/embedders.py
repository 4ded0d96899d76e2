"""Who makes the vectors in each mode, behind one interface."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ..config import EmbeddingConfig
from ..errors import ConfigError, DownloadError, EngineError, MissingPackage, VectorsOnly
from ..functions import MLXEmbeddingFunction, MockEmbeddingFunction, UserProvidedFunction
from ..functions.saved import SavedFunction
from ..models.known import find_known
from ..texts import check_texts
from .report import ModelInfo
from .vectors import read_vector

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..engine.encoder import Embedded, Vectors
    from ..engine.fingerprint import Fingerprint
    from ..engine.plan import Kind

# Texts to vectors, (n, dimension), in their order.
QueryFunction: TypeAlias = Callable[[list[str]], Any]
PROBE = "Is anybody there?"


class Embedder(Protocol):
    """What the router asks of a mode."""

    @property
    def function(self) -> SavedFunction:
        """What Chroma takes, and saves with a collection."""

    @property
    def embeds_documents(self) -> bool:
        """Whether a text without a vector gets one."""

    @property
    def normalized(self) -> bool:
        """Whether vectors are meant to be of unit length."""

    def embed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """The vectors of `texts`, and the tokens computed for them."""

    async def aembed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """The same, without blocking the event loop."""

    def embed_again(self, texts: Sequence[str]) -> Vectors:
        """The vectors of stored documents, which are cut where they are too long, whatever the settings say."""

    def width(self) -> int | None:
        """The width of the vectors, as far as it is known without loading or fetching anything."""

    def fingerprint(self, *, load: bool) -> Fingerprint | None:
        """What makes the vectors. Without `load`, None where the model is not on this disk."""

    def differences(
        self, saved: Mapping[str, Any], stored: Mapping[str, Any] | None, *, load: bool
    ) -> dict[str, tuple[Any, Any]]:
        """(stored, own) of each field in which what made a collection's vectors is not what makes these.

        `saved` is the configuration saved with the collection's function, `stored` its fingerprint if it has one.
        """

    def info(self) -> ModelInfo:
        """What is known of the model; loads nothing."""

    def probe(self) -> str:
        """Embeds a text and says so in words; raises what that raises. Fetches nothing."""


class MLXEmbedder:
    """Mode `mlx`: the engine."""

    embeds_documents = True

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config, self.normalized = config, config.normalize
        self.function = MLXEmbeddingFunction(config=config)
        self._encoder = self.function.encoder()
        self._width_on_disk: int | None = None

    def embed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """See Embedder. Raises what the function raises."""
        return self._encoder.embed(texts, kind)

    def begin(self, texts: Sequence[str]) -> Future[Embedded]:
        """Documents, whole in the engine's process. Raises what `begin_call` raises."""
        from ..engine.distant_calls import begin_call

        return begin_call(self._encoder, texts, "document")

    async def aembed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """See Embedder; when the task is cancelled, what still waits is not computed."""
        return await self._encoder.aembed(texts, kind)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory already."""
        return self._encoder.loaded() is not None

    def release(self) -> None:
        """Forgets the model of the engine's process, where it is, and ends that where it has nothing else to do."""
        self._encoder.release()

    def embed_again(self, texts: Sequence[str]) -> Vectors:
        """See Embedder. Raises what the function raises."""
        cutting = MLXEmbeddingFunction(
            config=dataclasses.replace(self.config, on_long_text="truncate", embedding_cache=None)
        )
        return cutting.encode(texts)

    def width(self) -> int | None:
        """The dimension asked for, else that of the model in memory or on this disk, else the table's."""
        if self.config.dimension is not None:
            return self.config.dimension
        loaded = self._encoder.loaded()
        if loaded is not None:
            return loaded.dimension
        if self._width_on_disk is None:  # read once, since every write asks
            fingerprint = self.fingerprint(load=False)
            self._width_on_disk = fingerprint.dimension if fingerprint else None
        known = find_known(self.config.model_name)
        return self._width_on_disk or (known.dimension if known else None)

    def checkpoint(self, *, fetch: bool = False) -> Checkpoint | None:
        """The model's files: those of the loaded one, else on this disk, else with `fetch` fetched, else None.

        Raises ModelNotFound, CheckpointError, and with `fetch` DownloadError.
        """
        from ..checkpoint import open_checkpoint
        from ..checkpoint.locate import locate

        loaded = self._encoder.loaded()
        if loaded is not None:
            return loaded.checkpoint
        machine = self.config.machine
        try:
            folder = locate(
                self._encoder.spec.model_name,
                cache_path=machine.cache_path,
                auto_download=fetch and machine.auto_download,
                show_progress=machine.show_progress,
            )
        except DownloadError:
            if fetch:
                raise
            return None
        return open_checkpoint(folder)

    def fingerprint(self, *, load: bool) -> Fingerprint | None:
        """See Embedder."""
        from ..engine.fingerprint import make_fingerprint

        checkpoint = self._encoder.load().checkpoint if load else self.checkpoint()
        return None if checkpoint is None else make_fingerprint(self.config.vectors, checkpoint)

    def differences(
        self, saved: Mapping[str, Any], stored: Mapping[str, Any] | None, *, load: bool
    ) -> dict[str, tuple[Any, Any]]:
        """See Embedder."""
        from ..engine.fingerprint import make_fingerprint

        checkpoint = self._encoder.load().checkpoint if load else self.checkpoint()
        if checkpoint is None:
            return _settings_differences(saved, self.function)
        own = make_fingerprint(self.config.vectors, checkpoint)
        if stored is None:
            settings = self.function.build_from_config(dict(saved)).settings
            if not _same_model(settings.model_name, self.config.model_name):
                other = MLXEmbedder(dataclasses.replace(self.config, model_name=settings.model_name)).checkpoint()
                if other is None:
                    return {"model_name": (settings.model_name, self.config.model_name)}
                checkpoint = other
            stored = make_fingerprint(settings, checkpoint).to_dict()
        return own.differences(stored)

    def fetch(self) -> None:
        """Makes sure that MLX and the model are here. Raises MissingPackage, DownloadError, ModelNotFound."""
        if importlib.util.find_spec("mlx") is None:
            raise MissingPackage("mlx", "mlx" if sys.platform == "darwin" else "'mlx[cpu]'")
        self.checkpoint(fetch=True)

    def info(self) -> ModelInfo:
        """See Embedder."""
        loaded, fingerprint = self._encoder.loaded(), self.fingerprint(load=False)
        return ModelInfo(
            mode="mlx",
            name=self.config.model_name,
            dimension=fingerprint.dimension if fingerprint else self.width(),
            max_tokens=fingerprint.max_tokens if fingerprint else self._stated_max_tokens(),
            device=loaded.device if loaded else None,
            quantization=fingerprint.quantization if fingerprint else None,
            memory_bytes=loaded.memory_bytes if loaded else None,
            loaded=loaded is not None,
        )

    def _stated_max_tokens(self) -> int | None:
        known = find_known(self.config.model_name)
        return self.config.max_tokens or (known.max_tokens if known else None)

    def probe(self) -> str:
        """See Embedder."""
        if self.checkpoint() is None:
            raise DownloadError(
                f"The model {self.config.model_name!r} is not in the cache, and a health check fetches nothing. Fetch "
                f"it with `router.load()`, or `chroma-mlx models download {self.config.model_name}` in a shell."
            )
        # Computed, whatever the vector cache has.
        plain = MLXEmbeddingFunction(config=dataclasses.replace(self.config, embedding_cache=None))
        plain.encode([PROBE], "query")
        return f"{self.config.model_name} embedded a text"


class MockEmbedder:
    """Mode `mock`: a hash of the text's words."""

    embeds_documents = True
    normalized = True

    def __init__(self, config: EmbeddingConfig) -> None:
        dimension = config.dimension
        if dimension is None:  # as wide as what it stands for
            dimension = MLXEmbedder(dataclasses.replace(config, mode="mlx")).width()
        if dimension is None:
            raise ConfigError(
                f"Mode 'mock' makes vectors as wide as those of {config.model_name!r}, which is not in the table of "
                "models and not on this disk. Set `dimension`."
            )
        self.function = MockEmbeddingFunction(dimension)

    def embed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """See Embedder. No token is computed."""
        from ..engine.encoder import Embedded

        return Embedded(self.function.encode(texts), 0)

    async def aembed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """See Embedder."""
        return await asyncio.to_thread(self.embed, texts, kind)

    def embed_again(self, texts: Sequence[str]) -> Vectors:
        """See Embedder."""
        return self.function.encode(texts)

    def width(self) -> int:
        """See Embedder."""
        return self.function.dimension

    def fingerprint(self, *, load: bool) -> None:
        """None: the function's saved configuration says it all."""

    def differences(
        self, saved: Mapping[str, Any], stored: Mapping[str, Any] | None, *, load: bool
    ) -> dict[str, tuple[Any, Any]]:
        """See Embedder."""
        return _settings_differences(saved, self.function)

    def info(self) -> ModelInfo:
        """See Embedder."""
        return _info_without_model("mock", self.function.name(), self.function.dimension)

    def probe(self) -> str:
        """See Embedder."""
        self.function([PROBE])
        return "mock vectors, for tests: no model is used"


class UserProvidedEmbedder:
    """Mode `user_provided`: vectors are made elsewhere; queries by `query_function`, where one is given."""

    embeds_documents = False

    def __init__(self, config: EmbeddingConfig, query_function: QueryFunction | None) -> None:
        self.config, self.query_function = config, query_function
        self.normalized = config.normalize
        self.function = UserProvidedFunction()

    def embed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """Queries through `query_function`. Raises VectorsOnly without one, and for documents."""
        from ..engine.encoder import Embedded

        texts = check_texts(texts)
        if kind == "document" or self.query_function is None:
            raise VectorsOnly(
                "Mode 'user_provided' embeds no text. Pass the vector: "
                + (
                    "query(vector=…), made by the model that made the stored vectors; or give the router that model: "
                    "EmbeddingRouter(…, query_function=function)."
                    if kind == "query"
                    else '{"id": …, "text": …, "vector": …}.'
                )
            )
        returned = self.query_function(list(texts))
        try:
            made = [read_vector(vector) for vector in returned]
            vectors = np.stack(made) if made else np.empty((0, 0), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EngineError(
                f"query_function returned no vectors, one of one width for each text, but {type(returned).__name__}: "
                f"{error}. Return an array (n, dimension), or a list of such rows."
            ) from error
        if len(made) != len(texts):
            raise EngineError(
                f"query_function returned {len(made)} vectors for {len(texts)} texts. It must return one for each, in "
                "their order."
            )
        return Embedded(vectors, 0)

    async def aembed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """See Embedder: `query_function` is called in a thread."""
        return await asyncio.to_thread(self.embed, texts, kind)

    def embed_again(self, texts: Sequence[str]) -> Vectors:
        """Raises VectorsOnly: no document is embedded here."""
        return self.embed(texts, "document").vectors

    def width(self) -> int | None:
        """The dimension asked for; else whatever the first vector has."""
        return self.config.dimension

    def fingerprint(self, *, load: bool) -> None:
        """None: what made the vectors is not known here."""

    def differences(
        self, saved: Mapping[str, Any], stored: Mapping[str, Any] | None, *, load: bool
    ) -> dict[str, tuple[Any, Any]]:
        """None that could be known."""
        return {}

    def info(self) -> ModelInfo:
        """See Embedder."""
        return _info_without_model("user_provided", self.function.name(), self.config.dimension)

    def probe(self) -> str:
        """See Embedder."""
        if self.query_function is None:
            return "vectors are made elsewhere: no model is used"
        self.embed([PROBE], "query")
        return "vectors are made elsewhere; query_function embedded a text"


def _info_without_model(mode: str, name: str, dimension: int | None) -> ModelInfo:
    return ModelInfo(
        mode=mode,
        name=name,
        dimension=dimension,
        max_tokens=None,
        device=None,
        quantization=None,
        memory_bytes=None,
        loaded=False,
    )


def _same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: a short name and its repository, or two paths of a folder."""
    from ..checkpoint.locate import local_folder

    folders = [folder.resolve() for folder in map(local_folder, (one, other)) if folder is not None]
    known = find_known(one)
    return one == other or (known is not None and known is find_known(other)) or folders[:1] == folders[1:] != []


def _settings_differences(saved: Mapping[str, Any], function: SavedFunction) -> dict[str, tuple[Any, Any]]:
    """What two configurations of a function differ in. None is open: a checkpoint will say what it means."""
    stored, own = _plain(saved), _plain(function.get_config())
    return {
        key: (stored[key], own[key])
        for key in own
        if key not in function.CHANGEABLE and None not in (stored.get(key), own[key]) and stored[key] != own[key]
    }


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with what the table knows in it: one name a model, and its own width for None."""
    known = find_known(config.get("model_name", ""))
    if known is None:
        return dict(config)
    return {**config, "model_name": known.name, "dimension": config.get("dimension") or known.dimension}

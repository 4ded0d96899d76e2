"""Who makes the vectors of an ingest, and who counts the tokens of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from chromadb.utils.embedding_functions import DefaultEmbeddingFunction

from ..config import EmbeddingConfig
from ..engine.own_process import engine_process
from ..errors import ChromaMLXError, ConfigError, EngineError, InputError
from ..functions import MLXEmbeddingFunction, MockEmbeddingFunction, UserProvidedFunction
from ..router.embedders import Embedder, MLXEmbedder, MockEmbedder
from .cutting import CountTokens

if TYPE_CHECKING:
    from ..engine.request import Embedded

# Texts tokenised together: their tokens are in memory at once.
TEXTS_COUNTED: Final = 512
# A function of another library may send all that it is given to a service, which takes so many.
TEXTS_A_CALL: Final = 256
# A text behind a prompt may have a few tokens more than both.
PROMPT_MARGIN: Final = 4


@dataclass(frozen=True, slots=True)
class Ruler:
    """How long texts are: `count` gives the tokens of each; `most` is the longest that the model takes, if known."""

    count: CountTokens
    most: int | None


class Maker(Protocol):
    """What an ingest asks of whoever makes the vectors."""

    @property
    def name(self) -> str:
        """In words, for messages."""

    @property
    def normalized(self) -> bool:
        """Whether vectors are meant to be of unit length."""

    def make(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of documents, (len(texts), dimension)."""

    def begin(self, texts: Sequence[str]) -> Future[Embedded] | None:
        """Has them made elsewhere, in turn with what was begun before; None where that would have to be here."""

    def drop(self) -> None:
        """Nobody wants any more what was begun."""

    def end(self) -> None:
        """All is made: what was loaded for this alone is freed."""

    def ruler(self) -> Ruler:
        """What measures the texts; may fetch the model's tokenizer."""


class RouterMaker:
    """One of the router's embedders; `alone`: which loads its model for this."""

    def __init__(self, embedder: Embedder, *, alone: bool = False) -> None:
        self.embedder, self._alone = embedder, alone
        self._begun: set[Future[Embedded]] = set()  # and not answered

    @property
    def name(self) -> str:
        """See Maker."""
        return repr(self.embedder.function)

    @property
    def normalized(self) -> bool:
        """See Maker."""
        return self.embedder.normalized

    def make(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See Maker. Raises what the function raises."""
        return self.embedder.embed(texts, "document").vectors

    def begin(self, texts: Sequence[str]) -> Future[Embedded] | None:
        """See Maker."""
        if not isinstance(self.embedder, MLXEmbedder) or not self.embedder.config.own_process:
            return None
        begun = self.embedder.begin(texts)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return begun

    def drop(self) -> None:
        """See Maker."""
        engine_process.drop(set(self._begun))

    def end(self) -> None:
        """See Maker."""
        if self._alone and isinstance(self.embedder, MLXEmbedder):
            self.embedder.release()

    def ruler(self) -> Ruler:
        """See Maker."""
        return ruler_of(self.embedder.config) if isinstance(self.embedder, MLXEmbedder) else builtin_ruler()


class FunctionMaker:
    """Any embedding function of Chroma's."""

    normalized = False

    def __init__(self, function: Any) -> None:
        self.function = function

    @property
    def name(self) -> str:
        """See Maker."""
        return type(self.function).__name__

    def make(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See Maker. Raises EngineError for whatever else than an error of this package the function raises."""
        try:
            parts = (self._call(texts, start) for start in range(0, len(texts), TEXTS_A_CALL))
            vectors = np.array([vector for part in parts for vector in part], dtype=np.float32)
        except ChromaMLXError:
            raise
        except Exception as error:
            raise EngineError(
                f"The embedding function {self.name} failed on {len(texts)} texts: {type(error).__name__}: {error}. "
                "What was written until then stays; once it works, run the same ingest again."
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise EngineError(
                f"The embedding function {self.name} returned an array of shape {vectors.shape} for {len(texts)} "
                "texts. It must return one vector for each, in their order."
            )
        return vectors

    def begin(self, texts: Sequence[str]) -> None:
        """See Maker: the function is this process's."""

    def drop(self) -> None:
        """See Maker."""

    def end(self) -> None:
        """See Maker."""

    def _call(self, texts: Sequence[str], start: int) -> Any:
        """What the function returns for the texts from `start`. An InputError names the place among all of them."""
        try:
            return self.function(list(texts[start : start + TEXTS_A_CALL]))
        except InputError as error:
            if start == 0 or error.index is None:
                raise
            raise InputError(str(error), index=start + error.index) from error

    def ruler(self) -> Ruler:
        """See Maker."""
        return builtin_ruler()


def maker_of(function: Any, *, beside: bool = False) -> RouterMaker | FunctionMaker:
    """Who makes vectors as `function` does. Raises ConfigError where it makes none. `beside`: see `maker_of_config`."""
    if isinstance(function, UserProvidedFunction) or function is None:
        raise ConfigError(
            "This collection takes vectors that are made elsewhere, and an ingest embeds text. Use a collection with "
            "an embedding function, or name a model."
        )
    if isinstance(function, MLXEmbeddingFunction | MockEmbeddingFunction):
        return maker_of_config(config_of(function), beside=beside)
    return FunctionMaker(function)


def config_of(function: MLXEmbeddingFunction | MockEmbeddingFunction) -> EmbeddingConfig:
    """The configuration that a router would make the function of; no bar of its own."""
    if isinstance(function, MockEmbeddingFunction):
        return EmbeddingConfig(mode="mock", dimension=function.dimension)
    machine = {name: getattr(function.machine, name) for name in function.machine.__dataclass_fields__}
    return EmbeddingConfig(**{**function.settings.to_dict(), **machine, "show_progress": False})


def config_behind(maker: Maker) -> EmbeddingConfig | None:
    """The configuration that another process would make the same vectors by; None where there is none."""
    function = maker.embedder.function if isinstance(maker, RouterMaker) else None
    return config_of(function) if isinstance(function, MLXEmbeddingFunction | MockEmbeddingFunction) else None


def maker_of_config(config: EmbeddingConfig, *, beside: bool = False) -> RouterMaker:
    """The same of a configuration, with `beside` in the engine's process: unless the configuration says where, or the
    weights are in memory here. Raises ConfigError in mode user_provided."""
    if config.mode == "user_provided":
        raise ConfigError(
            "The mode is 'user_provided', in which no text is embedded. Set it to 'mlx', or name a model."
        )
    if config.mode == "mock":
        return RouterMaker(MockEmbedder(config))
    return maker_of_embedder(MLXEmbedder(config), beside=beside)


def maker_of_embedder(embedder: Embedder, *, beside: bool) -> RouterMaker:
    """The same of one of the router's embedders."""
    if (
        not beside
        or not isinstance(embedder, MLXEmbedder)
        or embedder.config.own_process is not None
        or embedder.is_loaded
        or not engine_process.can_start
    ):
        return RouterMaker(embedder)
    there = MLXEmbedder(replace(embedder.config, own_process=True))
    return RouterMaker(there, alone=not there.is_loaded)


def function_of_handle(chroma: Any) -> Any:
    """The function that Chroma itself would embed a collection's documents by; None where it has none."""
    # As Chroma has it: the function that the handle was opened with, unless that is the default argument.
    given = getattr(chroma, "_embedding_function", None)
    if given is not None and not isinstance(given, DefaultEmbeddingFunction):
        return given
    return chroma.configuration.get("embedding_function")


def ruler_of(config: EmbeddingConfig) -> Ruler:
    """That of a model: its own tokenizer, and its longest text less what stands around and before every one."""
    from ..engine.fingerprint import make_fingerprint
    from ..engine.tokens import Tokenizer
    from ..models.architecture import find_defaults

    checkpoint = MLXEmbedder(config).checkpoint(fetch=True)
    if checkpoint is None:  # fetching gives one, or raises
        raise EngineError(f"The model {config.model_name!r} is not here. Fetch it first.")
    made_by = make_fingerprint(config.vectors, checkpoint)
    defaults = find_defaults(checkpoint.config)
    tokenizer = Tokenizer(checkpoint, start_token=defaults.start_token, end_token=defaults.end_token)
    before = tokenizer.lengths([made_by.document_instruction])[0] + PROMPT_MARGIN if made_by.document_instruction else 0
    return Ruler(_in_parts(tokenizer.lengths), max(1, made_by.max_tokens - tokenizer.special_tokens - before))


def builtin_ruler() -> Ruler:
    """That of the built-in model, for functions whose tokenizer is not known. It sets no limit."""
    return Ruler(ruler_of(EmbeddingConfig(model_name="builtin")).count, None)


def _in_parts(count: CountTokens) -> CountTokens:
    def count_in_parts(texts: Sequence[str]) -> list[int]:
        parts = (count(texts[start : start + TEXTS_COUNTED]) for start in range(0, len(texts), TEXTS_COUNTED))
        return [tokens for part in parts for tokens in part]

    return count_in_parts

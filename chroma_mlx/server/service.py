"""What the routes have in common: which models are served, what a request may ask for, and the engine behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Final, Literal, TypeVar

from ..config import EmbeddingConfig
from ..engine.encoder import Encoder, Vectors, counts
from ..engine.fingerprint import make_fingerprint
from ..engine.model import Model, ModelSpec
from ..engine.scheduler import UNKNOWN_S
from ..errors import ChromaMLXError, ConfigError, DeadlineExceeded, InputError, QueueFull, SchedulerClosed
from ..models.known import find_known
from ..settings import VectorSettings
from ..texts import check_texts
from .background import MOST_WAITING, Checks, in_daemon
from .options import Limits, ServerOptions

Kind = Literal["document", "query"]
R = TypeVar("R")
KINDS: Final[tuple[Kind, ...]] = ("document", "query")
# Behind a model's name: the texts are queries, for clients that have no other way to say so.
QUERY_SUFFIX: Final = ":query"


class UnknownModel(ChromaMLXError, LookupError):
    """A request names a model that this server does not serve."""


class RequestTooLarge(ChromaMLXError, ValueError):
    """A request has more texts or tokens than one may."""


class SettingRefused(ChromaMLXError, ValueError):
    """A setting of a request does not fit the model. `field` is the setting where the request gave only one."""

    def __init__(self, message: str, field: str | None) -> None:
        super().__init__(message)
        self.field = field


class Misconfigured(ChromaMLXError, RuntimeError):
    """What the server was configured with does not fit; no request can mend it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Vectors, (n, dimension) float32, of the model by its name here; the tokens computed, and the time it took.

    `space` is equal where everything that makes a vector is, the model's name apart.
    """

    vectors: Vectors
    model: str
    space: str
    tokens: int
    milliseconds: float

    @property
    def dimension(self) -> int:
        """The width of the vectors."""
        return int(self.vectors.shape[1])


class EmbeddingService:
    """The served models behind one interface for all protocols. Its methods are for one event loop."""

    def __init__(self, options: ServerOptions) -> None:
        self.limits: Limits = options.limits
        self._configs = {_name(config): config for config in options.configs}
        self.default = next(iter(self._configs))
        self._encoder = lru_cache(256)(self._make_encoder)
        self._space = lru_cache(256)(self._find_space)
        self._checks = Checks()
        self._loading: dict[ModelSpec, asyncio.Future[Model]] = {}
        self._in_threads: set[ModelSpec] = set()  # those that a thread loads
        self._awaiting = 0
        self._stopped = False

    @property
    def names(self) -> list[str]:
        """The served models, the default one first."""
        return list(self._configs)

    @property
    def ready(self) -> bool:
        """Whether every served model is in memory."""
        return all(self._encoder(name).loaded() is not None for name in self._configs)

    async def load(self) -> None:
        """Loads every served model. Raises what loading raises."""
        for name in self._configs:
            await self._load(self._encoder(name))

    @property
    def loading(self) -> bool:
        """Whether a thread is loading a model, which cannot be interrupted."""
        return bool(self._in_threads)

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped

    def stop(self) -> None:
        """Who waits for a model to be loaded is told that the server is stopping, and so is who comes to."""
        self._stopped = True
        for future in self._loading.values():
            if not future.done():
                future.set_exception(SchedulerClosed())

    def models(self) -> list[dict[str, Any]]:
        """What is served: name, dimension, longest text, device, memory; what needs the loaded model is else None."""
        return [self.model(name) for name in self._configs]

    def model(self, name: str | None) -> dict[str, Any]:
        """The same of one model. Raises UnknownModel."""
        name, _ = self._resolve(name)
        encoder, known = self._encoder(name), find_known(name)
        loaded = encoder.loaded()
        stated = make_fingerprint(encoder.vectors, loaded.checkpoint) if loaded else None
        return {
            "name": name,
            "loaded": loaded is not None,
            "default": name == self.default,
            "dimension": stated.dimension if stated else (encoder.vectors.dimension or (known and known.dimension)),
            "max_tokens": stated.max_tokens if stated else (encoder.vectors.max_tokens or (known and known.max_tokens)),
            "pooling": stated.pooling if stated else encoder.vectors.pooling,
            "device": loaded.device if loaded else None,
            "memory_bytes": loaded.memory_bytes if loaded else None,
            "space": self._space(encoder) if loaded else None,
        }

    @property
    def crowded(self) -> bool:
        """Whether texts of some kind have to be refused."""
        return any(self._encoder(name).is_full(kind) for name in self._configs for kind in KINDS)

    def refusal(self, model: str | None, kind: Kind | None) -> QueueFull | None:
        """What `embed` would refuse any text with, known before anything is spent on the request; None if nothing."""
        try:
            name, suffix = self._resolve(model)
        except UnknownModel:
            return None  # which is what it is to be told
        return self._encoder(name).refusal(kind or suffix or "document")

    async def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        *,
        model: str | None = None,
        kind: Kind | None = None,
        **settings: Any,
    ) -> Answer:
        """Embeds texts, or token ids of the model's own tokenizer.

        settings: `dimension`, `pooling`, `normalize`, where they are not to be as configured; None is as configured.
        Raises UnknownModel, RequestTooLarge, SettingRefused, Misconfigured, InputError, QueueFull, DeadlineExceeded
        after the limit's seconds whatever they were spent on, and what loading and the engine raise.
        """
        started = time.perf_counter()
        try:
            with _counted():
                name, space, encoder, texts, kind = await self._prepare(texts, model, kind, settings, started)
            found = await encoder.aembed(texts, kind, timeout_s=self._left(started))
        except ConfigError as error:
            raise Misconfigured(str(error)) from error
        except DeadlineExceeded as error:  # which knows of its own part of the time alone
            raise DeadlineExceeded(waited_s=time.perf_counter() - started) from error
        milliseconds = (time.perf_counter() - started) * 1000
        return Answer(found.vectors, name, space, found.tokens, milliseconds)

    async def _prepare(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        model: str | None,
        kind: Kind | None,
        settings: Mapping[str, Any],
        started: float,
    ) -> tuple[str, str, Encoder, list[str], Kind]:
        """The model's name here, its space, what embeds, what texts, and their kind; nothing is wrong with them yet."""
        name, suffix = self._resolve(model)
        if len(texts) > self.limits.texts:
            raise RequestTooLarge(f"The request has {len(texts)} texts, and {self.limits.texts} is the most in one.")
        given = {key: value for key, value in settings.items() if value is not None}
        are_ids = bool(texts) and not isinstance(texts[0], str)
        if are_ids:
            self._refuse_tokens(sum(map(len, texts)))
        else:
            texts = check_texts(list(texts))
        kind = kind or suffix or "document"
        if (full := self._encoder(name).refusal(kind)) is not None:  # before more is spent on it
            raise full
        # A thread that waits for a model would hold up the end of the process.
        loaded = self._encoder(name).loaded()
        if loaded is None:
            loaded = await self._within(self._load(self._encoder(name)), started)
        try:
            encoder = self._encoder(name, **given)
            space = self._space(encoder)
        except ConfigError as error:
            if not given:
                raise
            raise SettingRefused(str(error), next(iter(given)) if len(given) == 1 else None) from error
        if are_ids:
            texts = check_texts(await self._within(self._checks.run(self._read_ids, encoder, texts), started))
        # A text has about as many tokens as bytes in UTF-8 at most: normalisation may make more of a few characters.
        if sum(map(len, texts)) * 4 + len(texts) * loaded.tokenizer.special_tokens > self.limits.tokens:
            counting = self._checks.run(loaded.tokenizer.count, texts, self.limits.tokens)
            self._refuse_tokens(await self._within(counting, started))
        return name, space, encoder, list(texts), kind  # type: ignore[arg-type]  # ids are texts by now

    def _left(self, started: float) -> float:
        return max(0.0, self.limits.seconds - (time.perf_counter() - started))

    async def _within(self, work: Awaitable[R], started: float) -> R:
        """What `work` gives. Raises DeadlineExceeded."""
        try:
            return await asyncio.wait_for(work, self._left(started))
        except asyncio.TimeoutError as error:
            if isinstance(error, DeadlineExceeded):  # its own
                raise
            raise DeadlineExceeded(waited_s=time.perf_counter() - started) from None

    async def _load(self, encoder: Encoder) -> Model:
        """The model, loaded by one thread whoever asks for it. Raises SchedulerClosed after `stop`, QueueFull."""
        if (model := encoder.loaded()) is not None:
            return model
        if self._stopped:
            raise SchedulerClosed()
        future = self._loading.get(encoder.spec)
        if future is None or future.done():
            self._in_threads.add(encoder.spec)
            future = self._loading[encoder.spec] = in_daemon(partial(self._load_here, encoder))
            # Who asked may be gone, and an error that nobody takes is logged.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._awaiting >= MOST_WAITING:
            raise QueueFull(
                pending=self._awaiting,
                limit=MOST_WAITING,
                retry_after_s=UNKNOWN_S,
                what="requests wait for a model to be loaded",
                bound="the most at once",
            )
        self._awaiting += 1
        try:
            return await asyncio.shield(future)
        finally:
            self._awaiting -= 1

    def _load_here(self, encoder: Encoder) -> Model:
        try:
            return encoder.load()
        finally:
            self._in_threads.discard(encoder.spec)

    def _find_space(self, encoder: Encoder) -> str:
        """A hash of everything that makes vectors, of documents and queries; the model must be loaded.

        Not of the model's name: the same weights may go by several.
        """
        made = make_fingerprint(encoder.vectors, encoder.load().checkpoint).to_dict()
        made = {**made, "on_long_text": encoder.vectors.on_long_text}
        del made["model"]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]

    def _resolve(self, model: str | None) -> tuple[str, Kind | None]:
        """A served model's name here, and the kind that the name asks for."""
        if model is None:
            return self.default, None
        plain = model.removesuffix(QUERY_SUFFIX)
        known = find_known(plain)
        for name in (plain, known.name if known else plain):
            if name in self._configs:
                return name, "query" if plain != model else None
        raise UnknownModel(
            f"This server does not serve the model {model!r}, but {', '.join(map(repr, self._configs))}. Name one of "
            "them, or start the server with --model."
        )

    def _make_encoder(self, name: str, **settings: Any) -> Encoder:
        config = self._configs[name]
        vectors = config.vectors
        if settings:
            stated = {each.name: getattr(vectors, each.name) for each in fields(vectors)}
            vectors = VectorSettings(**{**stated, **settings})
        return Encoder(vectors, replace(config.machine, show_progress=False, queue_policy="fail_fast"))

    def _read_ids(self, encoder: Encoder, rows: Sequence[Any]) -> list[str]:
        """The texts of token ids: each must be what this model's tokenizer makes of its text."""
        tokenizer, texts = encoder.load().tokenizer, []
        for index, ids in enumerate(rows):
            text = tokenizer.text_of(ids) if ids and 0 <= min(ids) <= max(ids) < tokenizer.vocabulary else None
            if text is None:
                raise InputError(
                    f"Input {index} is token ids that {encoder.vectors.model_name}'s tokenizer makes of no text: they "
                    "are those of another model. Send the text (LangChain: check_embedding_ctx_length=False).",
                    index=index,
                )
            texts.append(text)
        return texts

    def _refuse_tokens(self, tokens: int) -> None:
        if tokens > self.limits.tokens:
            raise RequestTooLarge(f"The request has more than {self.limits.tokens} tokens, the most in one.")


@contextmanager
def _counted() -> Iterator[None]:
    """Counts an error among the calls that were not answered, as the encoder does those of its own."""
    try:
        yield
    except BaseException as error:
        counts.add_error(error)
        raise


def _name(config: EmbeddingConfig) -> str:
    known = find_known(config.model_name)
    if config.mode != "mlx":
        raise ConfigError(f"mode is {config.mode!r}, but only mode 'mlx' computes, so only it can be served.")
    return known.name if known else config.model_name

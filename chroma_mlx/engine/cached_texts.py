"""What a call finds in the vector cache, and what it adds to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Final

from ..settings import VectorSettings
from .fingerprint import describe_quantization
from .model import Model
from .plan import Plan
from .vector_cache import VectorCache, Vectors
from .vector_file import ROWS_AT_ONCE

# To be raised whenever the engine begins to compute other vectors from the same files and settings: others than
# rounding makes, which is a millionth and differs between machines, too.
COMPUTATION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """Everything that determines the vector of a text, with nothing left open; plain JSON values.

    `weights` is a hash of every byte of the weights, the tokenizer and the model's own configuration; `dense` are
    the layers behind the pooling, whose settings lie in files of their own; `start_token` and `end_token` are put
    around a text by this engine where the tokenizer does not. `prompt` is put before the text and its first `skip`
    tokens are not pooled. With `on_long_text` a text that is refused is not found either. `dtype` is that of
    the activations. The model's name and path change no vector; neither does the kind, but for its prompt.
    """

    weights: str
    quantization: str
    dense: tuple[tuple[int, int, bool, str], ...]
    start_token: str | None
    end_token: str | None
    prompt: str
    skip: int
    pooling: str
    max_tokens: int
    on_long_text: str
    dimension: int
    normalize: bool
    device: str
    dtype: str
    computation: int = COMPUTATION

    def key(self) -> bytes:
        """32 bytes that stand for it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode("ascii")).digest()


def specify(settings: VectorSettings, model: Model, plan: Plan) -> Specification | None:
    """What determines the vectors that `plan`, made of `settings`, gives with `model`.

    None where that is no longer known: the files were changed or removed after the model was loaded.
    """
    checkpoint = model.checkpoint
    if checkpoint.content_hash is None:
        return None
    layers = checkpoint.declared.dense or ()
    return Specification(
        weights=checkpoint.content_hash,
        quantization=describe_quantization(checkpoint),
        dense=tuple((layer.in_features, layer.out_features, layer.bias, layer.activation) for layer in layers),
        start_token=model.defaults.start_token,
        end_token=model.defaults.end_token,
        prompt=plan.prompt,
        skip=plan.skip,
        pooling=plan.pooling,
        max_tokens=plan.max_tokens,
        on_long_text=settings.on_long_text,
        dimension=plan.dimension,
        normalize=settings.normalize,
        device=model.device,
        dtype=model.dtype,
    )


def make_keys(specification: Specification, texts: Sequence[str]) -> list[bytes]:
    """The key of each text: the SHA-256 of the specification's, of 32 bytes, and the text's UTF-8."""
    stem = hashlib.sha256(specification.key())
    keys = []
    for text in texts:
        digest = stem.copy()
        digest.update(text.encode("utf-8"))
        keys.append(digest.digest())
    return keys


def recall(
    cache: VectorCache | None,
    settings: VectorSettings,
    model: Model,
    plan: Plan,
    texts: Sequence[str],
    vectors: Vectors,
) -> CachedTexts:
    """What `cache` has of distinct `texts`, written to their rows of `vectors`."""
    if cache is None or (specification := specify(settings, model, plan)) is None:
        return CachedTexts(None, [], vectors)
    return CachedTexts(cache, make_keys(specification, texts), vectors)


class CachedTexts:
    """The distinct texts of one call, as a context.

    Fills the rows of `vectors`, (texts, dimension) float32, that the cache has; `missing` are the others, in
    their order. Those that are computed are handed back by `keep` and stored now and then, the last of them
    when the call ends, also by an error. Without a cache every text is missing, and nothing is kept.
    """

    def __init__(self, cache: VectorCache | None, keys: Sequence[bytes], vectors: Vectors) -> None:
        self._cache, self._keys, self._vectors = cache, keys, vectors
        self._kept: list[int] = []
        self.missing = list(range(len(vectors))) if cache is None else self._fill(cache)

    def _fill(self, cache: VectorCache) -> list[int]:
        """Fills the rows that the cache has, some at a time; returns the others."""
        missing = []
        for start in range(0, len(self._keys), ROWS_AT_ONCE):
            part = self._keys[start : start + ROWS_AT_ONCE]
            found = cache.get(part, self._vectors.shape[1])
            for row, key in enumerate(part, start):
                if (vector := found.get(key)) is None:
                    missing.append(row)
                else:
                    self._vectors[row] = vector
        return missing

    @property
    def found(self) -> int:
        """How many of the texts the cache had."""
        return len(self._vectors) - len(self.missing)

    def keep(self, rows: Sequence[int]) -> None:
        """The vectors in `rows` are computed: the cache may have them."""
        if self._cache is not None:
            self._kept += rows
            if len(self._kept) >= ROWS_AT_ONCE:
                self._store()

    def _store(self) -> None:
        rows, self._kept = self._kept, []
        if self._cache is not None and rows:
            self._cache.put([self._keys[row] for row in rows], self._vectors[rows])

    def __enter__(self) -> CachedTexts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._store()

"""The texts of one call: what of them is to be computed, and where each vector goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..settings import MachineSettings, VectorSettings
from .batching import ENOUGH_TOKENS, plan_batches
from .cached_texts import recall
from .model import Model
from .plan import Kind, make_plan
from .prompts import own_tokens
from .tokens import TokenIds
from .vector_cache import VectorCache
from .waiting import Work

Vectors = npt.NDArray[np.float32]

# Texts are tokenised and sorted by length in windows of this many, so that the memory for token ids does
# not grow with the call, while a window is large enough that neighbours in length are really alike.
WINDOW_TEXTS: Final = 4_096
FIRST_WINDOW_TEXTS: Final = 512


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, (n, dimension) float32, and the tokens of the texts that were computed, with prompts.

    `cached` of the texts, equal ones counted once, were not computed: the vector cache had their vectors.
    `truncated` of those computed were cut at the longest text that is allowed.
    """

    vectors: Vectors
    tokens: int
    cached: int = 0
    truncated: int = 0


class Request:
    """Texts of one kind, checked, for one model under one set of settings. A context: see CachedTexts.

    `rows` below are of the distinct texts that the vector cache does not have, in the order of the call.
    """

    def __init__(
        self,
        texts: list[str],
        kind: Kind,
        vectors: VectorSettings,
        machine: MachineSettings,
        model: Model,
        cache: VectorCache | None = None,
    ) -> None:
        """Looks into the vector cache, if any. Raises ConfigError for settings that do not fit the model."""
        self.kind, self.model, self.plan = kind, model, make_plan(vectors, model, kind)
        self._settings, self._machine, self._texts = vectors, machine, texts
        # Each distinct text with its first place in the call.
        first: dict[str, int] = {}
        for place, text in enumerate(texts):
            first.setdefault(text, place)
        self._distinct, self._places = list(first), list(first.values())
        self._vectors = np.empty((len(first), self.plan.dimension), dtype=np.float32)
        self._known = recall(cache, vectors, model, self.plan, self._distinct, self._vectors)
        self._tokens = 0
        self._cut: list[int] = []

    def __enter__(self) -> Request:
        self._known.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._known.__exit__(kind, error, traceback)

    @property
    def missing(self) -> int:
        """How many texts are to be computed."""
        return len(self._known.missing)

    def batches(self) -> Iterator[tuple[list[int], Work]]:
        """(rows, what is to be computed) of each batch, window by window; the first is small, to begin soon.

        Raises TextTooLong where a text is not to be cut.
        """
        plan, model = self.plan, self.model
        reusable = plan.prompt_tokens if model.reuses(plan.prompt_tokens, plan.pooling) else None
        start, size = 0, FIRST_WINDOW_TEXTS
        while start < self.missing:
            window = self._known.missing[start : start + size]
            ids = model.tokenizer.encode(
                [self._distinct[row] for row in window],
                prefix=plan.prompt,
                max_tokens=plan.max_tokens,
                refuse_long=self._settings.on_long_text == "error",
                places=[self._places[row] for row in window],
                cut=self._cut,
            )
            for group, lengths in own_tokens(ids, reusable):
                # Those that reuse nothing share no pass with those that do.
                prompt = reusable if lengths[0] < len(ids[group[0]]) else None
                for batch in plan_batches(lengths, batch_size=self._most_texts, batch_tokens=self._most_tokens):
                    chosen = [group[index] for index in batch]
                    tokens = sum(lengths[index] for index in batch)
                    yield (
                        [start + index for index in chosen],
                        self._work([ids[index] for index in chosen], tokens, prompt),
                    )
            start, size = start + size, WINDOW_TEXTS

    def _work(self, rows: list[TokenIds], tokens: int, prompt: TokenIds | None) -> Work:
        plan, model = self.plan, self.model
        return Work(
            key=(id(model), plan.pooling, plan.skip, None if prompt is None else prompt.tobytes()),
            kind=self.kind,
            rows=rows,
            tokens=tokens,
            run=partial(model.network.embed, pooling=plan.pooling, skip=plan.skip, prompt=prompt),
            most_texts=self._most_texts,
            most_tokens=self._most_tokens,
            padding=model.group_padding,
        )

    @property
    def _most_texts(self) -> int:
        return self._machine.batch_size

    @property
    def _most_tokens(self) -> int:
        most = self._machine.batch_tokens
        return min(most, ENOUGH_TOKENS.get(self.model.device, most))

    def accept(self, rows: Sequence[int], raw: Vectors, tokens: int) -> int:
        """Takes the raw vectors of a batch. Returns how many; raises EngineError for one that is none."""
        own = [self._known.missing[row] for row in rows]
        places = [self._places[row] for row in own]
        self._vectors[own] = finish(raw, self.plan.dimension, self._settings.normalize, places)
        self._known.keep(own)
        self._tokens += tokens
        return len(own)

    def embedded(self) -> Embedded:
        """The vectors of all texts of the call, when every batch was accepted."""
        vectors = self._vectors
        if len(self._distinct) < len(self._texts):
            row_of = {text: row for row, text in enumerate(self._distinct)}
            vectors = vectors[[row_of[text] for text in self._texts]]
        return Embedded(vectors, self._tokens, self._known.found, len(self._cut))


def finish(raw: Vectors, dimension: int, normalize: bool, places: Sequence[int]) -> Vectors:
    """The one door: cuts to `dimension`, scales to unit length, and lets only finite vectors out.

    raw: (n, full width) float32. Returns (n, dimension) float32. Raises EngineError, with the text's place
    in the call, for a vector that is not finite or that has no direction to normalise.
    """
    vectors = raw[:, :dimension]
    # Not finite where a value is not. In float64, since the square of a large or small float32 is no float32.
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    bad = ~np.isfinite(norms[:, 0])
    if normalize:
        bad |= norms[:, 0] == 0.0
    if bad.any():
        row = int(np.argmax(bad))
        raise EngineError(
            f"The model gave text {places[row]} a vector that is {'zero' if norms[row, 0] == 0.0 else 'not finite'}, "
            "so nothing is returned. The checkpoint is probably damaged, or a conversion in float16 that overflows: "
            "fetch it again, or use the bfloat16 or a quantised one."
        )
    return (vectors / norms).astype(np.float32) if normalize else vectors

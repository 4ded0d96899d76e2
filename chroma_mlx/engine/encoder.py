"""The way of a text: tokens, batches, the MLX thread, one door that every vector leaves by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..checkpoint.locate import local_folder
from ..errors import EngineError
from ..progress import progress_bar
from ..settings import MachineSettings, VectorSettings
from ..texts import check_texts
from .batching import ENOUGH_TOKENS, plan_batches
from .cached_texts import recall
from .mlx_thread import mlx_thread
from .model import Model, ModelSpec, find_loaded, get_model
from .plan import Kind, Plan, make_plan
from .prompts import own_tokens
from .tokens import TokenIds
from .vector_cache import shared_cache

Vectors = npt.NDArray[np.float32]

# Texts are tokenised and sorted by length in windows of this many, so that the memory for token ids does
# not grow with the call, while a window is large enough that neighbours in length are really alike.
WINDOW_TEXTS: Final = 4_096
FIRST_WINDOW_TEXTS: Final = 512
# Batches that wait at the MLX thread: one runs, one is ready. More would only make other callers wait.
BATCHES_AHEAD: Final = 2


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, (n, dimension) float32, and the tokens of the texts that were computed, with prompts.

    `cached` of the texts, equal ones counted once, were not computed: the vector cache had their vectors.
    """

    vectors: Vectors
    tokens: int
    cached: int = 0


class Encoder:
    """Turns texts into vectors by one model under one set of settings. Making one costs nothing."""

    def __init__(self, vectors: VectorSettings, machine: MachineSettings) -> None:
        self.vectors, self.machine = vectors, machine
        # A folder by its absolute path: "./model" is another model once the program has changed its folder.
        folder = local_folder(vectors.model_name)
        name = vectors.model_name if folder is None else str(folder)
        self.spec = ModelSpec(name, machine.device, machine.cache_path)

    def load(self) -> Model:
        """The model, loaded if it is not yet. Raises what `get_model` raises."""
        machine = self.machine
        return get_model(
            self.spec,
            auto_download=machine.auto_download,
            show_progress=machine.show_progress,
            max_cache_gb=machine.max_cache_gb,
        )

    def loaded(self) -> Model | None:
        """The model if it is in memory."""
        return find_loaded(self.spec)

    def encode(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """Embeds `texts`: float32, (len(texts), dimension), in their order, every value finite.

        As `embed` does, without the count of tokens.
        """
        return self.embed(texts, kind).vectors

    def embed(self, texts: Sequence[str], kind: Kind) -> Embedded:
        """Embeds `texts`: vectors in their order, (len(texts), dimension) float32, every value finite.

        With `normalize` every vector has unit length. Equal texts are computed once, and those that the vector
        cache has, where one is set, not at all. Safe from any thread. Raises InputError naming the text,
        ConfigError when a setting does not fit the model or the cache's file is none, EngineError when the
        forward pass gives no usable vector, and what loading raises.
        """
        texts = check_texts(texts)
        cache = shared_cache(self.machine.embedding_cache_path, self.machine.embedding_cache_gb)
        model = self.load()
        plan = make_plan(self.vectors, model, kind)
        # Each distinct text with its first place in the call.
        first: dict[str, int] = {}
        for place, text in enumerate(texts):
            first.setdefault(text, place)
        distinct, places = list(first), list(first.values())
        vectors = np.empty((len(distinct), plan.dimension), dtype=np.float32)
        tokens = 0
        with recall(cache, self.vectors, model, plan, distinct, vectors) as known:
            new, new_places = [distinct[row] for row in known.missing], [places[row] for row in known.missing]
            with progress_bar(len(new), self.machine.show_progress) as bar:
                for indices, raw, batch_tokens in self._run(model, plan, new, new_places):
                    rows = [known.missing[i] for i in indices]
                    vectors[rows] = finish(raw, plan.dimension, self.vectors.normalize, [places[row] for row in rows])
                    known.keep(rows)
                    tokens += batch_tokens
                    bar.update(len(indices))
        if len(distinct) < len(texts):
            row_of = {text: row for row, text in enumerate(distinct)}
            vectors = vectors[[row_of[text] for text in texts]]
        return Embedded(vectors, tokens, known.found)

    def _run(
        self, model: Model, plan: Plan, texts: list[str], places: list[int]
    ) -> Iterator[tuple[list[int], Vectors, int]]:
        """(indices, raw vectors, tokens) of each batch; the next is tokenised and queued while one computes."""
        running: deque[tuple[list[int], Future[Vectors], int]] = deque()
        try:
            for indices, rows in self._batches(model, plan, texts, places):
                if len(running) >= BATCHES_AHEAD:
                    done, future, tokens = running.popleft()
                    yield done, future.result(), tokens
                job = mlx_thread.submit(
                    model.embed, rows, pooling=plan.pooling, skip=plan.skip, prompt=plan.prompt_tokens
                )
                running.append((indices, job, sum(map(len, rows))))
            while running:
                done, future, tokens = running.popleft()
                yield done, future.result(), tokens
        finally:
            # A caller that left (an error, Ctrl-C) takes its queued work along.
            for _, future, _ in running:
                future.cancel()

    def _batches(
        self, model: Model, plan: Plan, texts: list[str], places: list[int]
    ) -> Iterator[tuple[list[int], list[TokenIds]]]:
        """(indices, token ids) of each batch, window by window; the first is small, so that computing begins soon."""
        prompt = plan.prompt_tokens if model.reuses(plan.prompt_tokens, plan.pooling) else None
        most = min(self.machine.batch_tokens, ENOUGH_TOKENS.get(model.device, self.machine.batch_tokens))
        start, size = 0, FIRST_WINDOW_TEXTS
        while start < len(texts):
            window = slice(start, start + size)
            ids = model.tokenizer.encode(
                texts[window],
                prefix=plan.prompt,
                max_tokens=plan.max_tokens,
                refuse_long=self.vectors.on_long_text == "error",
                places=places[window],
            )
            for group, lengths in own_tokens(ids, prompt):
                for batch in plan_batches(lengths, batch_size=self.machine.batch_size, batch_tokens=most):
                    chosen = [group[index] for index in batch]
                    yield [start + index for index in chosen], [ids[index] for index in chosen]
            start, size = start + size, WINDOW_TEXTS


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

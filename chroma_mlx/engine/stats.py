"""What the engine of this process did and holds, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .counts import Percentiles
from .encoder import counts, scheduler
from .mlx_thread import mlx_memory
from .model import loaded_models
from .own_process import engine_process


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Everything since the process began, of all functions and routers in it; times in seconds.

    texts: of calls that were answered, by kind; `tokens` computed for them. `cached` texts had their vector from the
    vector cache, `truncated` ones were cut. `errors` by name. `batches` are forward passes; `batch_texts` the texts
    of one, `padding` the share of attention's places in one that were padding, `wait_s` how long texts waited
    for one, `compute_s` how long one took, `call_s` whole calls. `queue_texts` and `queue_tokens` wait now.
    `load_s` is of each model. Bytes: `weights_bytes` of the models in memory, `active_bytes` of all that MLX has in
    use, `kept_bytes` of what it keeps for reuse.
    """

    texts: dict[str, int]
    tokens: int
    cached: int
    truncated: int
    errors: dict[str, int]
    batches: int
    batch_texts: Percentiles
    padding: Percentiles
    wait_s: Percentiles
    compute_s: Percentiles
    call_s: Percentiles
    queue_texts: int
    queue_tokens: int
    load_s: dict[str, float]
    weights_bytes: int
    active_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What waits, and what is in memory, at this moment: see Stats."""

    queue_texts: int
    queue_tokens: int
    weights_bytes: int
    active_bytes: int
    kept_bytes: int


def take_stats() -> Stats:
    """The numbers at this moment."""
    numbers = counts.numbers()
    return Stats(
        texts=dict(numbers.texts),
        tokens=numbers.tokens,
        cached=numbers.cached,
        truncated=numbers.truncated,
        errors=dict(numbers.errors),
        batches=sum(numbers.pass_texts.counts),
        batch_texts=numbers.pass_texts.percentiles(),
        padding=numbers.padding.percentiles(),
        wait_s=numbers.wait_s.percentiles(),
        compute_s=numbers.pass_s.percentiles(),
        call_s=numbers.call_s.percentiles(),
        load_s=numbers.load_s,
        **asdict(take_held()),
    )


def take_held() -> Held:
    """What waits and what is in memory."""
    texts, tokens = scheduler.depth
    active, kept = (sum(each) for each in zip(mlx_memory(), engine_process.mlx_memory, strict=True))
    return Held(
        queue_texts=texts,
        queue_tokens=tokens,
        weights_bytes=sum(model.memory_bytes for model in loaded_models()),
        active_bytes=active,
        kept_bytes=kept,
    )

"""Whole calls in the engine's process: texts go there, and vectors come back.

A pass at a time, as distant_network.py sends them, lets calls of this process share passes. But who has to wait for
Python between two passes leaves the engine without work: Chroma's upsert into a local database keeps Python to itself
for some 0.3 s of 256 records, four passes of the built-in model's on 2 cores, and more of a GPU's. What is there
whole is computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..models.known import KNOWN_MODELS, KnownModel, find_known
from ..settings import MachineSettings, VectorSettings
from .encoder import Encoder, counts, scheduler
from .own_process import engine_process
from .plan import Kind
from .request import Embedded
from .scheduler import Pass


def begin_call(encoder: Encoder, texts: Sequence[str], kind: Kind) -> Future[Embedded]:
    """Hands texts over whole. The future gives what the encoder's `embed` gives, or raises what that raises.

    For large work beside which this process does other: no other caller here shares its passes. Raises ForkedProcess,
    EngineError where the process cannot be started, and SchedulerClosed; the future EngineError, too, where it died.
    """
    machine = encoder.machine
    there = replace(
        machine,
        own_process=True,
        show_progress=False,
        cache_dir=_absolute(machine.cache_path),
        embedding_cache=_absolute(machine.embedding_cache_path),
    )
    # A folder by its absolute path, as it was when the encoder was made.
    vectors = replace(encoder.vectors, model_name=encoder.spec.model_name)
    known = find_known(vectors.model_name)  # which this program may have registered
    began, under_way = scheduler.now(), ExitStack()

    def end(done: Future[Embedded]) -> None:
        under_way.close()
        if (error := done.exception()) is None:
            counts.add_call(kind, done.result(), seconds=scheduler.now() - began)
        else:
            counts.add_error(error)

    under_way.enter_context(scheduler.call(elsewhere=True))  # a shutdown waits for it, or refuses it
    try:
        future = engine_process.call(_embed, vectors, there, known, list(texts), kind)
    except BaseException as error:
        under_way.close()
        counts.add_error(error)
        raise
    future.add_done_callback(end)
    return future


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _embed(
    vectors: VectorSettings, machine: MachineSettings, known: KnownModel | None, texts: list[str], kind: Kind
) -> Embedded:
    """A job of the engine's process, on a thread that may wait."""
    scheduler.observe = _tell_of_pass
    if known is not None:
        KNOWN_MODELS[known.name] = known
    return Encoder(vectors, machine).embed(texts, kind)


def _tell_of_pass(done: Pass) -> None:
    engine_process.tell(_add_pass, done)


def _add_pass(done: Pass) -> None:
    """Here, of a pass there."""
    counts.add_pass(done)

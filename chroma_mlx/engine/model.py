"""Models in memory: located, opened, loaded once for each specification, and shared by the process."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint import Checkpoint, open_checkpoint
from ..checkpoint.cache import keep_within, mark_used
from ..checkpoint.locate import locate
from ..errors import CheckpointDiffers, CheckpointError
from ..models.architecture import find_defaults
from ..models.defaults import Defaults
from ..models.groups import GROUP_PADDING
from ..models.known import find_known
from .distant_network import load_distant_network
from .mlx_thread import mlx_thread
from .network import Network, choose_device, load_network
from .own_process import engine_process
from .prompts import is_reusable
from .stated import read_stated
from .tokens import TokenIds, Tokenizer


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What tells one loaded model from another; with `own_process` its weights are in a process of their own."""

    model_name: str
    device: str
    cache_path: Path | None
    own_process: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in memory, its weights in `network`."""

    checkpoint: Checkpoint
    defaults: Defaults
    tokenizer: Tokenizer
    network: Network

    @property
    def dimension(self) -> int:
        """Its full width."""
        return self.network.dimension

    @property
    def device(self) -> str:
        """What it computes on: "gpu" or "cpu"."""
        return self.network.device

    @property
    def dtype(self) -> str:
        """That of the activations."""
        return self.network.dtype

    @property
    def memory_bytes(self) -> int:
        """What its weights take."""
        return self.network.memory_bytes

    @property
    def group_padding(self) -> int:
        """The places that attention may pad in a group of texts."""
        return GROUP_PADDING[self.device]

    def reuses(self, prompt: TokenIds, pooling: str) -> bool:
        """Whether texts behind `prompt` cost only their own tokens."""
        return is_reusable(prompt, causal=self.network.causal, pooling=pooling)


_models: dict[ModelSpec, Model] = {}
_locks: dict[ModelSpec, threading.Lock] = {}
_registry_lock = threading.Lock()


def _forget_locks() -> None:
    """In a forked child: a lock that another thread of the parent held would never be released."""
    global _registry_lock
    _locks.clear()
    _registry_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def get_model(
    spec: ModelSpec,
    *,
    auto_download: bool,
    show_progress: bool | None,
    max_cache_gb: float | None = None,
    on_load: Callable[[float], None] = lambda seconds: None,
) -> Model:
    """The model of `spec`, loaded at the first call and shared from then on. Safe from any thread.

    With `max_cache_gb` the models used least recently leave the cache after a download: of those that this
    program fetched, and never one in use. `on_load` is told the seconds that loading took, if it was needed.

    Raises ModelNotFound, DownloadError, CheckpointError or one of its kinds, EngineError. A failure is
    not kept: the next call tries again.
    """
    if (model := _models.get(spec)) is not None:
        return model
    find_device = engine_process.run if spec.own_process else mlx_thread.run
    asked, spec = spec, replace(spec, device=find_device(choose_device, spec.device))
    with _registry_lock:
        lock = _locks.setdefault(spec, threading.Lock())
    with lock:
        if (model := _models.get(spec)) is None:
            fetched: list[Path] = []
            folder = locate(
                spec.model_name,
                cache_path=spec.cache_path,
                auto_download=auto_download,
                show_progress=show_progress,
                on_fetch=fetched.append,
            )
            mark_used(folder)  # before it is read, so that no other process prunes it meanwhile
            started = time.perf_counter()
            model = load_model(folder, device=spec.device, own_process=spec.own_process)
            on_load(time.perf_counter() - started)
            _report_differences(spec.model_name, model)
            _models[spec] = model
            if fetched and max_cache_gb is not None:
                in_use = [loaded.checkpoint.folder for loaded in list(_models.values())]
                keep_within(spec.cache_path, max_cache_gb, keep=in_use)
        _models[asked] = model  # "auto" and the device that it is share one
    return model


def _report_differences(model_name: str, model: Model) -> None:
    """Warns where a checkpoint is not what the table says of it; the checkpoint wins."""
    known = find_known(model_name)
    if known is None:
        return
    found = read_stated(model.checkpoint).differences(known)
    different = [f"{name} is {now!r}, not {was!r}" for name, (was, now) in found.items()]
    if different:
        warnings.warn(
            f"The checkpoint of {model_name} is not what the table of models says: {', '.join(different)}. What the "
            "checkpoint says holds.",
            CheckpointDiffers,
            stacklevel=2,
        )


def find_loaded(spec: ModelSpec) -> Model | None:
    """The model of `spec` if it is in memory."""
    return _models.get(spec)


def loaded_models() -> list[Model]:
    """Every model in memory, once."""
    return list({id(model): model for model in list(_models.values())}.values())


def release_model(spec: ModelSpec) -> None:
    """Forgets a model of the engine's process, which ends where it has no other and nobody waits for it.

    Whoever uses the model nevertheless has it loaded again.
    """
    if not spec.own_process or (model := _models.get(spec)) is None:
        return
    for key in [key for key, each in list(_models.items()) if each is model]:
        _models.pop(key, None)
    if not any(key.own_process for key in list(_models)):
        engine_process.close_idle()


def unload_models() -> None:
    """Frees the memory of every loaded model; each is loaded again when it is next used."""

    def free() -> None:  # behind the passes that are under way
        _models.clear()
        engine_process.close()
        if (mx := sys.modules.get("mlx.core")) is not None:
            mx.clear_cache()

    if _models or engine_process.pid is not None:
        mlx_thread.submit(free).result()


def load_model(folder: Path, *, device: str = "auto", own_process: bool = False) -> Model:
    """Loads the checkpoint in `folder`; `device` is "auto", "gpu" or "cpu".

    With `own_process` the weights are in the engine's process.
    """
    checkpoint = open_checkpoint(folder)
    _ = checkpoint.stamps, checkpoint.weights_hash  # taken while the files are surely there, kept with the model
    defaults = find_defaults(checkpoint.config)
    network: Network
    if own_process:
        network = load_distant_network(checkpoint, device)
    else:
        network = mlx_thread.run(load_network, checkpoint, device)
    tokenizer = Tokenizer(checkpoint, start_token=defaults.start_token, end_token=defaults.end_token)
    rows = checkpoint.token_rows
    if tokenizer.vocabulary > rows:
        raise CheckpointError(
            f"{checkpoint.tokenizer_file} has {tokenizer.vocabulary} tokens, but the model has embeddings for {rows}. "
            "The tokenizer is not the model's own; fetch the model again."
        )
    return Model(checkpoint=checkpoint, defaults=defaults, tokenizer=tokenizer, network=network)

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
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..blas import use_threads_for
from ..checkpoint import Checkpoint, open_checkpoint, sound_values
from ..checkpoint.cache import keep_within, mark_used
from ..checkpoint.dense import dense_shapes
from ..checkpoint.fit import check_fit
from ..checkpoint.locate import locate
from ..errors import CheckpointDiffers, CheckpointError, CorruptCheckpoint, EngineError
from ..models.architecture import Encoder, find_architecture, find_defaults
from ..models.defaults import Defaults
from ..models.groups import GROUP_PADDING
from ..models.known import find_known
from .mlx_thread import mlx_thread
from .prompts import Prompts, is_reusable
from .stated import read_stated
from .tokens import TokenIds, Tokenizer

if TYPE_CHECKING:
    import mlx.core as mx

    from ..models.head import Head


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What tells one loaded model from another."""

    model_name: str
    device: str
    cache_path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in memory. `dimension` is its full width; `dtype` that of its activations.

    `memory_bytes` is what its weights take.
    """

    checkpoint: Checkpoint
    defaults: Defaults
    tokenizer: Tokenizer
    encoder: Encoder
    head: Head
    dimension: int
    device: str
    dtype: str
    memory_bytes: int
    prompts: Prompts

    def embed(
        self, rows: list[TokenIds], *, pooling: str, skip: int, prompt: TokenIds | None = None
    ) -> npt.NDArray[np.float32]:
        """One forward pass, on the MLX thread. Returns (len(rows), dimension) float32, not normalised.

        rows: token ids of each text, 1 or more each; `skip`: tokens at the start that are not pooled. What the
        texts have of `prompt`, the tokens that most of them begin with, is computed once and reused.
        """
        import mlx.core as mx

        from ..models.batch import LIST_STEP, make_batch
        from .pooling import mean, wanted_tokens

        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        wanted = wanted_tokens(lengths, pooling, skip)
        padding, step = self.group_padding, LIST_STEP[self.device]
        if self.device == "cpu":
            # A layer's largest product: the feed-forward is some three times as wide as the model.
            use_threads_for(2.0 * int(lengths.sum()) * self.dimension * 3 * self.dimension)
        try:
            with mx.stream(_mlx_device(self.device)):
                prefix = None
                if prompt is not None and self.reuses(prompt, pooling):
                    prefix = self.prompts.prefix(self.encoder, prompt, rows)
                batch = make_batch(rows, padding=padding, step=step, wanted=wanted, prefix=prefix)
                hidden = self.encoder(batch)  # (T, H), or of the wanted tokens (B, H)
                if wanted is None:
                    hidden = mx.concatenate([mean(group.every, hidden, skip) for group in batch.groups])  # (B, H)
                return np.array(self.head(hidden.astype(mx.float32)))  # (B, dimension)
        except (RuntimeError, MemoryError) as error:
            raise EngineError(
                f"MLX failed on a batch of {len(rows)} texts of {sum(map(len, rows))} tokens: {error}. If memory ran "
                "out, lower batch_tokens or max_tokens."
            ) from error

    @property
    def group_padding(self) -> int:
        """The places that attention may pad in a group of texts."""
        return GROUP_PADDING[self.device]

    def reuses(self, prompt: TokenIds, pooling: str) -> bool:
        """Whether texts behind `prompt` cost only their own tokens."""
        return is_reusable(prompt, causal=self.encoder.causal, pooling=pooling)


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
    asked, spec = spec, replace(spec, device=mlx_thread.run(_choose_device, spec.device))
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
            model = load_model(folder, device=spec.device)
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


def unload_models() -> None:
    """Frees the memory of every loaded model; each is loaded again when it is next used."""

    def free() -> None:
        import mlx.core as mx

        _models.clear()
        mx.clear_cache()

    if _models:
        mlx_thread.run(free)


def load_model(folder: Path, *, device: str = "auto") -> Model:
    """Loads the checkpoint in `folder`; `device` is "auto", "gpu" or "cpu"."""
    checkpoint = open_checkpoint(folder)
    _ = checkpoint.stamps, checkpoint.weights_hash  # taken while the files are surely there, kept with the model
    defaults = find_defaults(checkpoint.config)
    encoder, head, device, dtype, nbytes = mlx_thread.run(_load_weights, checkpoint, device)
    tokenizer = Tokenizer(checkpoint, start_token=defaults.start_token, end_token=defaults.end_token)
    rows = checkpoint.token_rows
    if tokenizer.vocabulary > rows:
        raise CheckpointError(
            f"{checkpoint.tokenizer_file} has {tokenizer.vocabulary} tokens, but the model has embeddings for {rows}. "
            "The tokenizer is not the model's own; fetch the model again."
        )
    return Model(
        checkpoint=checkpoint,
        defaults=defaults,
        tokenizer=tokenizer,
        encoder=encoder,
        head=head,
        dimension=head.width,
        device=device,
        dtype=dtype,
        memory_bytes=nbytes,
        prompts=Prompts(),
    )


def _load_weights(checkpoint: Checkpoint, device: str) -> tuple[Encoder, Head, str, str, int]:
    """On the MLX thread: the encoder and what is behind it, device and dtype, and the bytes of the weights."""
    import mlx.core as mx

    from ..models.head import Head
    from ..models.weights import Weights

    device = _choose_device(device)
    architecture = find_architecture(checkpoint.config)
    with sound_values(f"config.json in {checkpoint.folder}"):
        config = architecture.read_config(checkpoint.config)
        dense = dense_shapes(checkpoint, config.hidden_size, find_defaults(checkpoint.config).dense_layers)
        check_fit(checkpoint, {**architecture.parameter_shapes(config), **dense}, architecture.IGNORABLE)
    dtype = _choose_dtype(checkpoint, device)
    with mx.stream(_mlx_device(device)):
        try:
            on_cpu = device == "cpu"
            weights = Weights(
                checkpoint, dtype=dtype, dense=on_cpu, host=on_cpu and sys.platform != "darwin", compiles=not on_cpu
            )
            encoder = architecture.Model(config, weights)
            head = Head(checkpoint, dense, config.hidden_size, weights)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise CorruptCheckpoint(
                f"The weights in {checkpoint.folder} cannot be read: {error}. Fetch the model again."
            ) from error
        finally:
            mx.clear_cache()
    return encoder, head, device, str(dtype).rpartition(".")[2], weights.nbytes


def _choose_device(device: str) -> str:
    import mlx.core as mx

    has_gpu = mx.default_device().type == mx.DeviceType.gpu or mx.is_available(mx.Device(mx.DeviceType.gpu))
    if device == "gpu" and not has_gpu:
        raise EngineError(
            "device is 'gpu', but MLX finds none here. Use device='auto' or 'cpu'; on Linux with an NVIDIA GPU "
            "install `mlx[cuda13]`."
        )
    return "gpu" if device != "cpu" and has_gpu else "cpu"


def _mlx_device(device: str) -> mx.Device:
    import mlx.core as mx

    return mx.Device(mx.DeviceType.gpu if device == "gpu" else mx.DeviceType.cpu)


def _choose_dtype(checkpoint: Checkpoint, device: str) -> mx.Dtype:
    """The dtype of the activations.

    On a CPU float32: it is what the BLAS is fast in. On a GPU that of a bfloat16 checkpoint, and float32
    for all else: never float16, whose range the 8B model's activations leave.
    """
    import mlx.core as mx

    stored = {info.dtype for info in checkpoint.tensors.values()}
    return mx.bfloat16 if device == "gpu" and "BF16" in stored and "F32" not in stored else mx.float32

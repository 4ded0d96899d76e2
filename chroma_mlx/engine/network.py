"""A model's weights in memory, and the forward pass through them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..blas import most_threads, own_product, use_threads_for
from ..checkpoint import Checkpoint, sound_values
from ..checkpoint.dense import dense_shapes
from ..checkpoint.fit import check_fit
from ..errors import CorruptCheckpoint, EngineError
from ..models.architecture import Encoder, find_architecture, find_defaults
from .prompts import Prompts, is_reusable
from .tokens import TokenIds

if TYPE_CHECKING:
    import mlx.core as mx

    from ..models.head import Head


class Network(Protocol):
    """What computes raw vectors, wherever its weights are.

    `dimension` is the full width; `device` "gpu" or "cpu"; `dtype` that of the activations; `memory_bytes` what the
    weights take; `causal` whether a token sees only those before it.
    """

    @property
    def dimension(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def causal(self) -> bool: ...

    def embed(
        self, rows: list[TokenIds], *, pooling: str, skip: int, prompt: TokenIds | None = None
    ) -> npt.NDArray[np.float32]:
        """One forward pass. Returns (len(rows), dimension) float32, not normalised.

        rows: token ids of each text, 1 or more each; `skip`: tokens at the start that are not pooled. What the
        texts have of `prompt`, the tokens that most of them begin with, is computed once and reused.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNetwork:
    """The weights in this process. Used on the MLX thread alone. `threads`: see `forward`."""

    encoder: Encoder
    head: Head
    device: str
    dtype: str
    memory_bytes: int
    prompts: Prompts
    threads: int

    @property
    def dimension(self) -> int:
        """See Network."""
        return self.head.width

    @property
    def causal(self) -> bool:
        """See Network."""
        return self.encoder.causal

    def embed(
        self, rows: list[TokenIds], *, pooling: str, skip: int, prompt: TokenIds | None = None
    ) -> npt.NDArray[np.float32]:
        """See Network. Raises EngineError for whatever MLX fails with."""
        import mlx.core as mx

        from .forward import forward

        if self.device == "cpu":
            # A layer's largest product: the feed-forward is some three times as wide as the model.
            use_threads_for(2.0 * sum(map(len, rows)) * self.dimension * 3 * self.dimension)
        try:
            # What is no number is found in the vectors, by whoever asked for them.
            with mx.stream(_mlx_device(self.device)), np.errstate(all="ignore"):
                prefix = None
                if prompt is not None and is_reusable(prompt, causal=self.causal, pooling=pooling):
                    prefix = self.prompts.prefix(self.encoder, prompt, rows)
                pooled = forward(
                    self.encoder,
                    rows,
                    device=self.device,
                    threads=self.threads,
                    pooling=pooling,
                    skip=skip,
                    prefix=prefix,
                )
                return np.array(self.head(pooled))  # (B, dimension)
        except (RuntimeError, MemoryError) as error:
            raise EngineError(
                f"MLX failed on a batch of {len(rows)} texts of {sum(map(len, rows))} tokens: {error}. If memory ran "
                "out, lower batch_tokens or max_tokens."
            ) from error


def load_network(checkpoint: Checkpoint, device: str) -> LocalNetwork:
    """Loads the weights, on the MLX thread; `device` is "auto", "gpu" or "cpu".

    Raises EngineError where there is no such device, CorruptCheckpoint and what else is wrong with the weights.
    """
    import mlx.core as mx

    from ..models.head import Head
    from ..models.weights import Weights

    device = choose_device(device)
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
    return LocalNetwork(
        encoder=encoder,
        head=head,
        device=device,
        dtype=str(dtype).rpartition(".")[2],
        memory_bytes=weights.nbytes,
        prompts=Prompts(),
        threads=most_threads() if weights.host and own_product() is not None else 1,
    )


def choose_device(device: str) -> str:
    """The device that `device` stands for, "gpu" or "cpu"; on the MLX thread. Raises EngineError without a GPU."""
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

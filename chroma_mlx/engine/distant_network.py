"""Weights in the engine's process: what asks for a pass here, and what computes it there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..checkpoint import Checkpoint, open_checkpoint
from ..errors import CheckpointError
from .network import LocalNetwork, load_network
from .own_process import engine_process
from .tokens import TokenIds


@dataclass(frozen=True, slots=True)
class _Weights:
    """Which they are: a checkpoint's folder, the device, and the hash of the files when they were loaded first."""

    folder: Path
    device: str
    weights_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DistantNetwork:
    """See Network. Used on the MLX thread of this process, which waits meanwhile."""

    weights: _Weights
    dimension: int
    device: str
    dtype: str
    memory_bytes: int
    causal: bool

    def embed(
        self, rows: list[TokenIds], *, pooling: str, skip: int, prompt: TokenIds | None = None
    ) -> npt.NDArray[np.float32]:
        """See Network. Raises EngineError, and where a new process has to load the weights again, what that raises."""
        lengths = [len(row) for row in rows]
        how = {"pooling": pooling, "skip": skip, "prompt": prompt}
        return engine_process.run(_embed, self.weights, np.concatenate(rows), lengths, how)


def load_distant_network(checkpoint: Checkpoint, device: str) -> DistantNetwork:
    """Loads the weights there. Raises what `load_network` raises, and what EngineProcess does."""
    weights = _Weights(checkpoint.folder.absolute(), device, checkpoint.weights_hash)
    return DistantNetwork(weights=weights, **engine_process.run(_describe, weights))


# From here on: jobs of the engine's process.

_networks: Final[dict[_Weights, LocalNetwork]] = {}


def _network_of(weights: _Weights) -> LocalNetwork:
    """Loads what is not there yet. Raises CheckpointError where the files are others now."""
    if (network := _networks.get(weights)) is None:
        checkpoint = open_checkpoint(weights.folder)
        if checkpoint.weights_hash != weights.weights_hash:
            raise CheckpointError(
                f"The files in {weights.folder} were changed after they were loaded, so the engine's process, which "
                "has to load them again, would make other vectors. Start the program again."
            )
        network = _networks[weights] = load_network(checkpoint, weights.device)
    return network


def _describe(weights: _Weights) -> dict[str, Any]:
    network = _network_of(weights)
    return {name: getattr(network, name) for name in ("dimension", "device", "dtype", "memory_bytes", "causal")}


def _embed(weights: _Weights, ids: TokenIds, lengths: list[int], how: dict[str, Any]) -> npt.NDArray[np.float32]:
    """A pass; `ids` are those of all texts, one behind the other."""
    return _network_of(weights).embed(np.split(ids, np.cumsum(lengths[:-1])), **how)

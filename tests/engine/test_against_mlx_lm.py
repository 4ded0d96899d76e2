"""Our Qwen3 and mlx-lm's, from the same weights in one process: the hidden states are equal."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small import CHECKPOINTS, CONFIG, write_checkpoint

from chroma_mlx.checkpoint import Checkpoint
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.engine.model import load_model
from chroma_mlx.models.architecture import Encoder

Hidden = npt.NDArray[np.float32]

SHAPES = [
    {},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1, "num_attention_heads": 6, "head_dim": 8},
    {"head_dim": 80, "hidden_size": 48},
    {"num_hidden_layers": 5, "intermediate_size": 96},
    {"rms_norm_eps": 1e-3, "rope_theta": 1_000_000.0},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0}},
]
# mlx-lm has no attention bias and no window, and unpacks affine values in bfloat16 unless its weights are
# float32, so these are all the committed checkpoints that it computes as the reference does.
NAMES = ["official-float32", "official-bfloat16", "sharded-untied", "resaved", "linear-rope", "mlx-float16"]


def hidden_states(checkpoint: Checkpoint, encoder: Encoder, ids: npt.NDArray[np.int32]) -> tuple[Hidden, Hidden]:
    """(ours, mlx-lm's). On the MLX thread: arrays of both live on one stream."""
    import mlx.core as mx
    from mlx.utils import tree_map

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlx-lm imports transformers, whose warnings are not ours to fix
        from mlx_lm.models import qwen3 as theirs

    from chroma_mlx.models.batch import make_batch

    with mx.stream(mx.Device(mx.DeviceType.cpu)):
        mine = encoder(make_batch(ids, padding=0)).reshape(*ids.shape, -1)
        model = theirs.Model(theirs.ModelArgs.from_dict(dict(checkpoint.config)))
        tensors: dict[str, Any] = {}
        for file in checkpoint.files:
            tensors |= mx.load(str(file))
        bare = {name.removeprefix(checkpoint.prefix): array for name, array in tensors.items()}
        named = {name if name.startswith("lm_head") else f"model.{name}": array for name, array in bare.items()}
        model.load_weights(list(tree_map(lambda array: array.astype(mx.float32), named).items()), strict=True)
        return np.array(mine), np.array(model.model(mx.array(ids)))


def check(folder: Path, vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    model = load_model(folder, device="cpu")
    encoder = model.network.encoder  # type: ignore[attr-defined]  # it is this process's
    for rows, length in ((1, 1), (1, 2), (3, 17), (2, 130)):
        ids = rng.integers(0, vocabulary, (rows, length)).astype(np.int32)
        mine, theirs = mlx_thread.run(hidden_states, model.checkpoint, encoder, ids)
        size = float(np.abs(theirs).mean())
        assert size > 0.1, f"hidden states of mean size {size:.1e} would show no difference"
        worst = float(np.abs(mine - theirs).max())
        assert worst < 1e-4, f"{folder.name}, {rows} x {length}: differs by {worst:.1e}"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: ",".join(shape) or "default")
def test_hidden_states_equal_those_of_mlx_lm_in_every_shape(tmp_path: Path, shape: dict[str, Any]) -> None:
    config = {key: value for key, value in (CONFIG | shape).items() if value is not None}
    check(write_checkpoint(tmp_path / "model", config=config), config["vocab_size"])


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_equal_those_of_mlx_lm_in_every_layout(name: str) -> None:
    check(CHECKPOINTS / name, 384)

"""The Qwen3-0.6B shape with random weights: speed does not depend on what they mean."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_669,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "quantization": {"group_size": 64, "bits": 4},
}
GROUP, BITS = 64, 4
DEVIATION = 0.02  # of the dense weights, as models of this shape are initialised
# The spread of 0 to 15 when all are as likely: what a step of the packing is, for weights of DEVIATION.
STEP = DEVIATION / math.sqrt((16**2 - 1) / 12)
LAYERS, QUICK_LAYERS = 28, 4


def write_checkpoint(folder: str, layers: int = LAYERS) -> dict[str, Any]:
    """Writes the checkpoint as MLX conversions look: 4-bit, keys under `model.`, no pooling or prompts.

    The tokenizer is the built-in model's: byte-pair encoding with <|endoftext|> appended, as Qwen3's, with
    ids below this shape's vocabulary. Call it in a process of its own, since it imports MLX.
    """
    import mlx.core as mx

    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    tensors: dict[str, mx.array] = {}
    for name, (rows, columns) in _matrices(layers):
        scales = mx.full((rows, columns // GROUP), STEP, dtype=mx.bfloat16)
        tensors[f"{name}.weight"] = mx.random.randint(0, 2**32 - 1, (rows, columns * BITS // 32), dtype=mx.uint32)
        tensors[f"{name}.scales"] = scales
        tensors[f"{name}.biases"] = scales * -7.5  # the middle of 0 to 15 is zero
    tensors.update((name, mx.ones((size,), dtype=mx.bfloat16)) for name, size in _vectors(layers))
    mx.save_safetensors(str(root / "model.safetensors"), tensors, metadata={"format": "mlx"})
    (root / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}, indent=1))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILTIN_FOLDER / file, root)
    return {"bytes": sum(file.stat().st_size for file in root.iterdir())}


def _matrices(layers: int) -> list[tuple[str, tuple[int, int]]]:
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    queries = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return [("model.embed_tokens", (CONFIG["vocab_size"], hidden))] + [
        (f"model.layers.{index}.{name}", shape) for index in range(layers) for name, shape in layer.items()
    ]


def _vectors(layers: int) -> list[tuple[str, int]]:
    hidden, head = CONFIG["hidden_size"], CONFIG["head_dim"]
    layer = {
        "input_layernorm": hidden,
        "post_attention_layernorm": hidden,
        "self_attn.q_norm": head,
        "self_attn.k_norm": head,
    }
    return [("model.norm.weight", hidden)] + [
        (f"model.layers.{index}.{name}.weight", size) for index in range(layers) for name, size in layer.items()
    ]

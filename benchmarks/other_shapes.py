"""The shapes of the other architectures with random weights: for what loading takes, not for speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "EmbeddingGemma 300M 4-bit": {
        "model_type": "gemma3_text",
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 768,
        "intermediate_size": 1152,
        "max_position_embeddings": 2048,
        "num_attention_heads": 3,
        "num_hidden_layers": 24,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "use_bidirectional_attention": True,
        "vocab_size": 262_144,
        "quantization": {"group_size": 64, "bits": 4},
    },
    "MiniLM-L6 float32": {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 12,
        "num_hidden_layers": 6,
        "type_vocab_size": 2,
        "vocab_size": 30_522,
    },
}
DENSE = {"gemma3_text": (3072, 768)}
AROUND = {"gemma3_text": ("<bos>", "<eos>"), "bert": ("[CLS]", "[SEP]")}


def write_checkpoint(folder: str, name: str) -> dict[str, Any]:
    """Writes a checkpoint as conversions look. Call it in a process of its own, since it imports MLX."""
    from chroma_mlx.engine.mlx_thread import mlx_thread

    return mlx_thread.run(_write, Path(folder), OTHER_SHAPES[name])


def _write(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    import mlx.core as mx
    from tokenizers import Tokenizer, processors

    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER
    from chroma_mlx.models.architecture import find_architecture

    kind, packing = config["model_type"], config.get("quantization")
    architecture = find_architecture(config)
    shapes = architecture.parameter_shapes(architecture.read_config(config))
    width = config["hidden_size"]
    for place, rows in enumerate(DENSE.get(kind, ())):
        shapes[f"dense.{place}.weight"] = (rows, width)
        width = rows
    tensors: dict[str, mx.array] = {}
    for key, shape in shapes.items():
        values = mx.random.normal(shape) * 0.02
        path = key.removesuffix(".weight")
        outer = "" if kind == "bert" or key.startswith("dense.") else "model."
        if packing and len(shape) == 2:
            parts = mx.quantize(values.astype(mx.bfloat16), **packing)
            for part, array in zip(("weight", "scales", "biases"), parts, strict=True):
                tensors[f"{outer}{path}.{part}"] = array
        else:
            tensors[f"{outer}{key}"] = values.astype(mx.bfloat16) if packing else values
    root.mkdir(parents=True)
    mx.save_safetensors(str(root / "model.safetensors"), tensors, metadata={"format": "mlx"})
    (root / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer = Tokenizer.from_file(str(BUILTIN_FOLDER / "tokenizer.json"))
    first, last = AROUND[kind]
    tokenizer.add_special_tokens([first, last])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    tokenizer.save(str(root / "tokenizer.json"))
    return {"bytes": sum(file.stat().st_size for file in root.iterdir())}

"""Small checkpoints: where the committed ones are, and how a test writes one of its own."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

CHECKPOINTS: Final = Path(__file__).parent / "checkpoints"
END: Final = "<|endoftext|>"

Tensors = dict[str, npt.NDArray[Any]]

CONFIG: Final[dict[str, Any]] = {
    "model_type": "qwen3",
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def read_texts() -> list[str]:
    """The texts of the committed reference vectors."""
    entries = json.loads((CHECKPOINTS / "texts.json").read_text(encoding="utf-8"))
    return [entry["text"] for entry in entries]


def make_tokenizer(*, end: str | None = END, start: str | None = None) -> Tokenizer:
    """One token a byte; `start` and `end` stand around every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([END, "<|im_end|>", "<|start|>"])
    around = [token for token in (start, end) if token]
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(token for token in (start, "$A", end) if token),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in around],
        )
    return tokenizer


def make_tensors(config: Mapping[str, Any] = CONFIG) -> Tensors:
    """Random float32 weights by the official names, from a seed that is the configuration."""
    rng = np.random.default_rng(zlib.crc32(json.dumps(config, sort_keys=True).encode()))
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (config["vocab_size"], hidden), "norm": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {
            f"layers.{layer}.{name}": shape
            for name, shape in {
                "self_attn.q_proj": (queries, hidden),
                "self_attn.k_proj": (keys, hidden),
                "self_attn.v_proj": (keys, hidden),
                "self_attn.o_proj": (hidden, queries),
                "self_attn.q_norm": (head,),
                "self_attn.k_norm": (head,),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }.items()
        }
    tensors: Tensors = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape).astype(np.float32)
        tensors[f"{name}.weight"] = 1 + np.float32(0.1) * noise if len(shape) == 1 else noise / np.sqrt(shape[1])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_checkpoint(
    folder: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    tensors: Tensors | None = None,
    tokenizer: Tokenizer | None = None,
    files: Mapping[str, object] | None = None,
) -> Path:
    """Writes a whole checkpoint; `files` adds JSON files by their path in it. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tokenizer or make_tokenizer()).save(str(folder / "tokenizer.json"))
    save_file(make_tensors(config) if tensors is None else tensors, folder / "model.safetensors")
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder

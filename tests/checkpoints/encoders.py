"""Makes the bidirectional checkpoints of this folder, EmbeddingGemma's and BERT's, and their reference vectors.

Run by hand, with the packages that make.py names, never by the tests:

    python tests/checkpoints/encoders.py [NAME …]

What is random, what the reference is and how it is packed: as in make.py.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from make import HERE, ST, Tensors, load_reference, make_vectors, pack, resave, write_json
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 384
WORDS = r"\s?\p{L}+|\s?\p{N}|\s?[^\s\p{L}\p{N}]+|\s+"
GEMMA: dict[str, Any] = {
    "architectures": ["Gemma3TextModel"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "head_dim": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 11,  # seen are 5 to each side
    "use_bidirectional_attention": True,
    "vocab_size": VOCABULARY,
}
GEMMA_PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "Clustering": "task: clustering | query: ",
}
BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 160,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "vocab_size": VOCABULARY,
}
XLMR = {
    **BERT,
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One checkpoint. `around` are the tokens that stand around a text; `prefix` is cut from no key by its makers."""

    config: Mapping[str, Any]
    around: tuple[str, str]
    layout: str = "official"
    dtype: str = "bfloat16"
    pooling: str = "mean"
    prompts: Mapping[str, str] = field(default_factory=dict)
    dense: tuple[int, ...] = ()
    prefix: str = ""
    packing: Mapping[str, Any] | None = None
    plain_tokenizer: bool = False
    max_tokens: int | None = None

    @property
    def threshold(self) -> float:
        """The smallest cosine to the reference that is right."""
        return 0.9999 if self.dtype == "float32" and self.packing is None else 0.999


_gemma = Recipe(config=GEMMA, around=("<bos>", "<eos>"), prompts=GEMMA_PROMPTS, dense=(128, 64))
_bert = Recipe(config=BERT, around=("[CLS]", "[SEP]"), dtype="float32")
RECIPES = {
    "gemma-official": replace(_gemma, dtype="float32"),
    "gemma-bfloat16": replace(_gemma, max_tokens=48),
    "gemma-resaved": replace(_gemma, layout="resaved"),
    "gemma-mlx-4bit": replace(_gemma, layout="mlx", packing={"group_size": 32, "bits": 4}),
    "gemma-mlx-8bit": replace(_gemma, layout="mlx", packing={"group_size": 32, "bits": 8}, plain_tokenizer=True),
    "bert-mean": replace(_bert, prefix="bert.", max_tokens=64),
    "bert-cls": replace(_bert, dtype="float16", pooling="cls", prompts={"query": "Represent: ", "document": ""}),
    "bert-resaved": replace(
        _bert,
        layout="resaved",
        prompts={"query": "Represent this sentence for searching relevant passages: ", "document": "passage: "},
    ),
    "bert-mlx-8bit": replace(_bert, layout="mlx", packing={"group_size": 32, "bits": 8}),
    "xlm-roberta": replace(_bert, config=XLMR, around=("<s>", "</s>"), max_tokens=158),  # 160 positions, 2 unused
}


def make_tokenizer(texts: list[str], around: tuple[str, str]) -> Tokenizer:
    """A byte-level BPE learnt from `texts`, the tokens `around` each of them; padding and unknown come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<unk>", *around]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=special,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{around[0]} $A {around[1]}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in around],
    )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer, recipe: Recipe) -> None:
    content = json.loads(tokenizer.to_str())
    if recipe.plain_tokenizer:
        content["post_processor"] = None
    folder.mkdir(parents=True, exist_ok=True)
    packed = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(packed + "\n", encoding="utf-8")
    config = {"model_max_length": 512, "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", config)


def make_weights(name: str, recipe: Recipe) -> Tensors:
    """Random weights by the official names, of a size at which every part of the model matters."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shapes = gemma_shapes(recipe.config) if recipe.config["model_type"] == "gemma3_text" else bert_shapes(recipe.config)
    width = recipe.config["hidden_size"]
    for place, rows in enumerate(recipe.dense):
        shapes[f"dense.{place}.weight"] = (rows, width)
        width = rows
    tensors = {}
    for key, shape in shapes.items():
        noise = rng.standard_normal(shape)
        if len(shape) == 2:
            values = noise * 1.5 / np.sqrt(shape[1])
        elif key.endswith("LayerNorm.weight"):
            values = 1 + 0.2 * noise
        else:  # Gemma's norms are stored less one; biases are about zero
            values = 0.2 * noise
        tensors[key] = torch.tensor(values, dtype=torch.float32)
    return tensors


def gemma_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        for part, shape in {
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
            "pre_feedforward_layernorm": (hidden,),
            "post_feedforward_layernorm": (hidden,),
        }.items():
            shapes[f"{at}{part}.weight"] = shape
    return {**shapes, "norm.weight": (hidden,)}


def bert_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
        "pooler.dense.bias": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        for part, shape in {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "attention.output.LayerNorm": (hidden,),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
            "output.LayerNorm": (hidden,),
        }.items():
            at = f"encoder.layer.{layer}.{part}"
            shapes[f"{at}.weight"], shapes[f"{at}.bias"] = shape, shape[:1]
    return shapes


def write_official(folder: Path, recipe: Recipe, tensors: Tensors, tokenizer: Tokenizer) -> None:
    """As sentence-transformers wrote it before its version 6: a folder for each dense layer."""
    write_json(folder / "config.json", {**recipe.config, "torch_dtype": recipe.dtype})
    write_tokenizer(folder, tokenizer, recipe)
    body = {f"{recipe.prefix}{key}": value for key, value in tensors.items() if not key.startswith("dense.")}
    save_file(body, folder / "model.safetensors", metadata={"format": "pt"})
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    width = recipe.config["hidden_size"]
    for place, rows in enumerate(recipe.dense):
        inside = f"{place + 2}_Dense"
        kinds.append(("Dense", inside))
        layer = {"in_features": width, "out_features": rows, "bias": False}
        activation = {"activation_function": "torch.nn.modules.linear.Identity"}
        write_json(folder / inside / "config.json", {**layer, **activation})
        save_file(
            {"linear.weight": tensors[f"dense.{place}.weight"]},
            folder / inside / "model.safetensors",
            metadata={"format": "pt"},
        )
        width = rows
    kinds.append(("Normalize", f"{len(kinds)}_Normalize"))
    write_json(
        folder / "modules.json",
        [
            {"idx": place, "name": str(place), "path": path, "type": f"{ST}.{kind}"}
            for place, (kind, path) in enumerate(kinds)
        ],
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": recipe.config["hidden_size"],
            **{f"pooling_mode_{flag}": recipe.pooling == mode for mode, flag in modes.items()},
        },
    )
    if recipe.prompts:
        write_json(folder / "config_sentence_transformers.json", {"prompts": recipe.prompts})
    if recipe.max_tokens:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": recipe.max_tokens, "do_lower_case": False})


def write_mlx(folder: Path, recipe: Recipe, tensors: Tensors, tokenizer: Tokenizer) -> Tensors:
    """A conversion: `model.` before the keys of a decoder, the dense layers beside it, none of the other files."""
    assert recipe.packing is not None
    packed, exact = pack(tensors, recipe.packing)
    outside = "" if recipe.config["model_type"] == "gemma3_text" else "model."
    renamed = {
        key.removeprefix("model.") if key.startswith("model.dense.") else key.removeprefix(outside): array
        for key, array in packed.items()
    }
    quantization = {"quantization": recipe.packing, "quantization_config": recipe.packing}
    write_json(folder / "config.json", {**recipe.config, **quantization})
    write_tokenizer(folder, tokenizer, recipe)
    mx.save_safetensors(str(folder / "model.safetensors"), renamed, metadata={"format": "mlx"})
    return {name: tensor.to(torch.float32) for name, tensor in exact.items()}


def make(name: str, recipe: Recipe, texts: list[str]) -> dict[str, Any]:
    """Writes one checkpoint and its vectors. Returns its entry of the manifest."""
    folder = HERE / name
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir()
    tokenizer = make_tokenizer(texts, recipe.around)
    tensors = {key: value.to(getattr(torch, recipe.dtype)) for key, value in make_weights(name, recipe).items()}
    with tempfile.TemporaryDirectory() as scratch:
        reference = folder
        if recipe.layout == "mlx":
            exact = write_mlx(folder, recipe, tensors, tokenizer)
            reference = Path(scratch) / "exact"
            reference.mkdir()
            twin = replace(recipe, layout="official", dtype="float32", packing=None, plain_tokenizer=False)
            write_official(reference, twin, exact, tokenizer)
        else:
            write_official(folder, recipe, tensors, tokenizer)
        if recipe.layout == "resaved":
            resave(folder, Path(scratch) / "before")
        model = load_reference(reference)
        widths = ((recipe.dense or (recipe.config["hidden_size"],))[-1] // 2,)
        np.savez(HERE / f"{name}.npz", **make_vectors(model, texts, widths))
    return {"threshold": recipe.threshold, "max_tokens": model.max_seq_length, "widths": widths}


def main() -> None:
    torch.set_num_threads(1)
    texts = [entry["text"] for entry in json.loads((HERE / "texts.json").read_text(encoding="utf-8"))]
    manifest_file = HERE / "encoders.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.is_file() else {}
    for name in sys.argv[1:] or RECIPES:
        manifest[name] = make(name, RECIPES[name], texts)
        print(name, manifest[name])
    write_json(manifest_file, {name: manifest[name] for name in RECIPES if name in manifest})


if __name__ == "__main__":
    main()

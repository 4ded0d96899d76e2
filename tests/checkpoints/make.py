"""Makes the checkpoints of this folder and their reference vectors. Run by hand, never by the tests:

    pip install torch==2.13.0 sentence-transformers==6.2.0 transformers==5.23.0 mlx==0.32.4
    python tests/checkpoints/make.py [NAME …]

Each has random weights, from a seed that is its name, in one of the layouts that real repositories have
(recipes.py). NAME.npz holds what sentence-transformers computes for texts.json: in float32, one text at a
time; of a quantised checkpoint, with the exactly unpacked weights, which packing.py finds without MLX. Run
again with the same versions on the same kind of CPU it changes no byte.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from packing import Floats, unpack
from recipes import RECIPES, VOCABULARY, Recipe
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
END = "<|endoftext|>"
SPECIAL = (END, "<|im_start|>", "<|im_end|>")
# Qwen2's own, which Qwen3 kept.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SHARDS = 2
ST = "sentence_transformers.models"

Tensors = dict[str, torch.Tensor]


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE as Qwen's, learnt from `texts`; it appends the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator([text for text in texts if END not in text], trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}",
        pair=f"$A {END} $B:1 {END}:1",
        special_tokens=[(END, tokenizer.token_to_id(END))],
    )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer, kind: str) -> None:
    content = json.loads(tokenizer.to_str())
    if kind == "plain":
        content["post_processor"] = None
    folder.mkdir(parents=True, exist_ok=True)
    packed = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(packed + "\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": END,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def make_config(recipe: Recipe) -> dict[str, Any]:
    """config.json as the official repositories have it, before `rope_parameters`."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **recipe.shape,
        "attention_bias": False,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "max_window_layers": recipe.shape["num_hidden_layers"],
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": recipe.dtype,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
        **recipe.config,
    }


def make_weights(name: str, config: Mapping[str, Any]) -> Tensors:
    """Random weights by the official names, of a size at which every part of the model matters."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    tensors: Tensors = {}

    def matrix(path: str, rows: int, columns: int, *, bias: bool = False) -> None:
        values = rng.standard_normal((rows, columns)) * 1.5 / np.sqrt(columns)
        tensors[f"{path}.weight"] = torch.tensor(values, dtype=torch.float32)
        if bias:
            tensors[f"{path}.bias"] = torch.tensor(0.3 * rng.standard_normal(rows), dtype=torch.float32)

    def norm(path: str, size: int) -> None:
        tensors[f"{path}.weight"] = torch.tensor(1 + 0.2 * rng.standard_normal(size), dtype=torch.float32)

    matrix("embed_tokens", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at, bias = f"layers.{layer}", config["attention_bias"]
        norm(f"{at}.input_layernorm", hidden)
        matrix(f"{at}.self_attn.q_proj", queries, hidden, bias=bias)
        matrix(f"{at}.self_attn.k_proj", keys, hidden, bias=bias)
        matrix(f"{at}.self_attn.v_proj", keys, hidden, bias=bias)
        matrix(f"{at}.self_attn.o_proj", hidden, queries, bias=bias)
        norm(f"{at}.self_attn.q_norm", head)
        norm(f"{at}.self_attn.k_norm", head)
        norm(f"{at}.post_attention_layernorm", hidden)
        matrix(f"{at}.mlp.gate_proj", inner, hidden)
        matrix(f"{at}.mlp.up_proj", inner, hidden)
        matrix(f"{at}.mlp.down_proj", hidden, inner)
    norm("norm", hidden)
    if not config["tie_word_embeddings"]:
        matrix("lm_head", config["vocab_size"], hidden)
    return tensors


def pack(tensors: Tensors, packing: Mapping[str, Any]) -> tuple[dict[str, mx.array], Tensors]:
    """(the tensors as MLX packs them, the values they stand for in float32)."""
    packed: dict[str, mx.array] = {}
    exact: Tensors = {}
    for name, tensor in tensors.items():
        path = name.removesuffix(".weight")
        values = mx.array(tensor.to(torch.float32).numpy()).astype(mx.bfloat16)
        how = packing.get(path, {key: value for key, value in packing.items() if not isinstance(value, Mapping | bool)})
        if tensor.ndim != 2 or how is False:
            packed[f"model.{name}"], exact[name] = values, torch.tensor(_floats(values))
            continue
        parts = mx.quantize(values, **how)
        packed.update(
            (f"model.{path}.{part}", array) for part, array in zip(("weight", "scales", "biases"), parts, strict=False)
        )
        affine = len(parts) == 3
        dense = unpack(
            np.array(parts[0]),
            _floats(parts[1]) if affine else np.array(parts[1]),
            _floats(parts[2]) if affine else None,
            bits=how["bits"],
            mode=how.get("mode", "affine"),
        )
        exact[name] = torch.tensor(dense)
    return packed, exact


def _floats(array: mx.array) -> Floats:
    return np.array(array.astype(mx.float32))


def write_declarations(folder: Path, recipe: Recipe, root: str = "") -> None:
    """The files of sentence-transformers, as it wrote them before its version 6."""
    kinds = {"Transformer": root, "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    write_json(
        folder / "modules.json",
        [
            {"idx": place, "name": str(place), "path": path, "type": f"{ST}.{kind}"}
            for place, (kind, path) in enumerate(kinds.items())
        ],
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": recipe.shape["hidden_size"],
            **{f"pooling_mode_{flag}": recipe.pooling == mode for mode, flag in modes.items()},
            "include_prompt": recipe.include_prompt,
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": recipe.prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    if recipe.max_tokens or recipe.lower_case:
        write_json(
            folder / root / "sentence_bert_config.json",
            {"max_seq_length": recipe.max_tokens, "do_lower_case": recipe.lower_case},
        )


def write_shards(folder: Path, tensors: Tensors) -> None:
    names = sorted(tensors)
    cut = len(names) // SHARDS
    table: dict[str, str] = {}
    for shard, part in enumerate((names[:cut], names[cut:]), start=1):
        file = f"model-{shard:05}-of-{SHARDS:05}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": table})


def write_official(folder: Path, recipe: Recipe, config: Mapping[str, Any], tensors: Tensors, words: Tokenizer) -> None:
    root = "0_Transformer" if recipe.layout == "subfolder" else ""
    write_json(folder / root / "config.json", config)
    write_tokenizer(folder / root, words, recipe.tokenizer)
    write_declarations(folder, recipe, root)
    if recipe.layout == "sharded":
        write_shards(folder, tensors)
    else:
        save_file(tensors, folder / root / "model.safetensors", metadata={"format": "pt"})


def write_mlx(folder: Path, recipe: Recipe, config: dict[str, Any], tensors: Tensors, words: Tokenizer) -> Tensors:
    """A conversion as mlx-lm writes it. Returns the values its weights stand for."""
    if recipe.packing is None:
        packed, exact = {f"model.{name}": mx.array(tensor.numpy()) for name, tensor in tensors.items()}, tensors
    else:
        packed, exact = pack(tensors, recipe.packing)
        # mlx-lm writes it under both keys.
        declared = {
            f"model.{key}" if isinstance(value, Mapping | bool) else key: value for key, value in recipe.packing.items()
        }
        config = {**config, "quantization": declared, "quantization_config": declared}
    write_json(folder / "config.json", config)
    write_tokenizer(folder, words, recipe.tokenizer)
    mx.save_safetensors(str(folder / "model.safetensors"), packed, metadata={"format": "mlx"})
    return {name: tensor.to(torch.float32) for name, tensor in exact.items()}


def load_reference(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}, local_files_only=True
    ).eval()


def make_vectors(model: SentenceTransformer, texts: list[str], widths: tuple[int, ...]) -> dict[str, Floats]:
    """Unit vectors of each kind, whole and cut to each of `widths`, one text at a time."""
    vectors: dict[str, Floats] = {}
    for kind, encode in (("document", model.encode_document), ("query", model.encode_query)):
        for width in (None, *widths):
            rows = [
                encode([text], truncate_dim=width, normalize_embeddings=True, show_progress_bar=False) for text in texts
            ]
            vectors[kind if width is None else f"{kind}@{width}"] = np.concatenate(rows).astype(np.float32)
    return vectors


def resave(folder: Path, scratch: Path) -> None:
    """Has sentence-transformers write `folder` anew, with the configuration keys of its version 6."""
    shutil.copytree(folder, scratch)
    shutil.rmtree(folder)
    load_reference(scratch).save(str(folder), create_model_card=False)


def make(name: str, recipe: Recipe, words: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """Writes one checkpoint and its vectors. Returns its entry of the manifest."""
    folder = HERE / name
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir()
    config = make_config(recipe)
    tensors = {key: value.to(getattr(torch, recipe.dtype)) for key, value in make_weights(name, config).items()}
    with tempfile.TemporaryDirectory() as scratch:
        reference = folder
        if recipe.layout == "mlx":
            exact = write_mlx(folder, recipe, config, tensors, words)
            reference = Path(scratch) / "exact"
            twin = replace(recipe, layout="official", dtype="float32", packing=None, tokenizer="appends")
            write_official(reference, twin, make_config(twin), exact, words)
        else:
            write_official(folder, recipe, config, tensors, words)
        if recipe.layout == "resaved":
            resave(folder, Path(scratch) / "before")
        model = load_reference(reference)
        widths = (recipe.shape["hidden_size"] // 2,)
        np.savez(HERE / f"{name}.npz", **make_vectors(model, texts, widths))
    return {"threshold": recipe.threshold, "max_tokens": model.max_seq_length, "widths": widths}


def main() -> None:
    torch.set_num_threads(1)
    texts = [entry["text"] for entry in json.loads((HERE / "texts.json").read_text(encoding="utf-8"))]
    words = make_tokenizer(texts)
    manifest_file = HERE / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8")) if manifest_file.is_file() else {}
    for name in sys.argv[1:] or RECIPES:
        manifest[name] = make(name, RECIPES[name], words, texts)
        print(name, manifest[name])
    write_json(manifest_file, {name: manifest[name] for name in RECIPES if name in manifest})


if __name__ == "__main__":
    main()

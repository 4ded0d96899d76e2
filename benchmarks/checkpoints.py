"""The same weights in every layout that a peer reads: packed, and unpacked as a sentence-transformers folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import in_child
from shape import LAYERS, QUICK_LAYERS

POOLINGS = {
    "last": "pooling_mode_lasttoken",
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
}
MINILM = "MiniLM-L6 float32"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is measured: its folders by form, and how many texts of each workload it gets.

    `forms` are "own", which this project reads, and of the same weights "packed", "float32" and "bfloat16".
    `limit` is the longest text in tokens, `flops` what a token takes in products with weights, `unasked_flops` what
    of them the last layer can leave out for a token that nobody asks for.
    """

    name: str
    title: str
    forms: dict[str, str]
    limit: int
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        return sum(layer_flops(self._config)) * int(self._config["num_hidden_layers"])

    @property
    def unasked_flops(self) -> int:
        return layer_flops(self._config)[1]

    @property
    def pair_flops(self) -> int:
        """What a token that sees another takes in attention's two products.

        In all layers but the last, which needs one query of a text where the pooling does.
        """
        heads, width = head_sizes(self._config)
        return 2 * 2 * heads * width * (int(self._config["num_hidden_layers"]) - 1)

    @property
    def causal(self) -> bool:
        """Whether a token sees only itself and those before it."""
        return bool(self._config["model_type"] != "bert")

    @property
    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((Path(self.forms["float32"]) / "config.json").read_text())
        return config


def prepare_subjects(
    scratch: Path, names: Sequence[str], *, quick: bool, device: str, minilm: Path | None
) -> list[Subject]:
    """Writes the checkpoints of the models `names` into `scratch`."""
    makers = {
        "0.6b": lambda: _shape(scratch, quick=quick, device=device),
        "builtin": lambda: _builtin(scratch, quick=quick),
        "minilm": lambda: _minilm(scratch, minilm, quick=quick),
    }
    return [makers[name]() for name in names]


def _shape(scratch: Path, *, quick: bool, device: str) -> Subject:
    packed = scratch / "packed"
    layers = QUICK_LAYERS if quick else LAYERS
    in_child("shape.write_checkpoint", folder=str(packed), layers=layers)
    forms = {"own": str(packed), "packed": str(packed)}
    for dtype in ("float32", "bfloat16"):
        forms[dtype] = _unpacked(packed, scratch / f"0.6b-{dtype}", dtype=dtype, pooling="last", limit=2048)
    # A GPU is some hundred times as fast as two cores.
    counts = {"short": 32, "mix": 32, "full": 4, "query": 100}
    if quick:
        counts = {"short": 8, "mix": 8, "full": 1, "query": 4}
    elif device == "gpu":
        counts = {"short": 2048, "mix": 2048, "full": 512, "query": 200}
    title = "0.6B shape" if layers == LAYERS else f"0.6B shape, cut to {layers} layers"
    return Subject(name="0.6b", title=title, forms=forms, limit=2048, counts=counts)


def _builtin(scratch: Path, *, quick: bool) -> Subject:
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    forms = {"own": "builtin"}
    for dtype in ("packed", "float32", "bfloat16"):
        forms[dtype] = _unpacked(BUILTIN_FOLDER, scratch / f"builtin-{dtype}", dtype=dtype, pooling="mean", limit=512)
    counts = {"short": 256, "mix": 256, "full": 64, "query": 100}
    if quick:
        counts = {"short": 32, "mix": 24, "full": 4, "query": 10}
    return Subject(name="builtin", title="built-in model", forms=forms, limit=512, counts=counts)


def _minilm(scratch: Path, given: Path | None, *, quick: bool) -> Subject:
    folder = scratch / "minilm"
    if given is None:
        in_child("other_shapes.write_checkpoint", folder=str(folder), name=MINILM)
    else:
        shutil.copytree(given, folder)
    float32 = _unpacked(folder, scratch / "minilm-float32", dtype="float32", pooling="mean", limit=512)
    counts = {"short": 256, "mix": 128, "full": 32, "query": 100}
    if quick:
        counts = {"short": 16, "mix": 8, "full": 2, "query": 10}
    title = "MiniLM-L6" if given else "MiniLM-L6 shape"
    forms = {"own": str(folder), "float32": float32}
    return Subject(name="minilm", title=title, forms=forms, limit=512, counts=counts)


def _unpacked(source: Path, target: Path, **settings: Any) -> str:
    in_child("checkpoints.write_unpacked", source=str(source), target=str(target), **settings)
    return str(target)


def write_unpacked(source: str, target: str, dtype: str, pooling: str, limit: int) -> dict[str, Any]:
    """Writes the weights of `source`, unpacked to `dtype`, as a folder that sentence-transformers loads by itself.

    With `dtype` "packed" they stay as they are, and only the names of Qwen3's tensors become those of MLX
    conversions, without which mlx-lm does not load it. Call it in a process of its own, since it imports MLX.
    """
    import mlx.core as mx

    root = Path(target)
    root.mkdir(parents=True)
    config = json.loads((Path(source) / "config.json").read_text())
    packed = dtype == "packed"
    packing = config.get("quantization") if packed else config.pop("quantization", None)
    outer = "model." if config["model_type"] == "qwen3" else ""
    stored = mx.load(str(Path(source) / "model.safetensors"))
    assert isinstance(stored, dict)
    tensors: dict[str, mx.array] = {}
    with mx.stream(mx.cpu):
        for name, array in stored.items():
            path = name.removesuffix(".weight")
            new = f"{outer}{name.removeprefix(outer)}"
            if packed:
                tensors[new] = array
                continue
            if f"{path}.scales" in stored and name.endswith(".weight"):
                # The sums in float32, as this project has them: in bfloat16 they would be other weights.
                scales, biases = (stored[f"{path}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
                array = mx.dequantize(array, scales, biases, group_size=packing["group_size"], bits=packing["bits"])
            elif path.endswith((".scales", ".biases")):
                continue
            tensors[new] = array.astype(getattr(mx, dtype))
        if config["model_type"] == "bert":
            tensors |= _missing_pooler(tensors, config["hidden_size"])
        mx.save_safetensors(str(root / "model.safetensors"), tensors, metadata={"format": "pt"})
    config |= {} if packed else {"torch_dtype": dtype, "dtype": dtype}
    config["architectures"] = ["BertModel" if config["model_type"] == "bert" else "Qwen3ForCausalLM"]
    (root / "config.json").write_text(json.dumps(config, indent=1))
    _write_around(root, Path(source), config, pooling=pooling, limit=limit)
    return {"bytes": sum(file.stat().st_size for file in root.rglob("*") if file.is_file())}


def _missing_pooler(tensors: dict[str, Any], width: int) -> dict[str, Any]:
    """The layer behind BERT that no embedding uses, but without which mlx-embeddings does not load."""
    import mlx.core as mx

    if "pooler.dense.weight" in tensors:
        return {}
    return {"pooler.dense.weight": mx.zeros((width, width)), "pooler.dense.bias": mx.zeros((width,))}


def _write_around(root: Path, source: Path, config: dict[str, Any], *, pooling: str, limit: int) -> None:
    """Tokenizer, pooling and normalisation, in the files that sentence-transformers reads."""
    shutil.copy(source / "tokenizer.json", root)
    tokenizer_config = source / "tokenizer_config.json"
    tokens = (
        json.loads(tokenizer_config.read_text())
        if tokenizer_config.exists()
        else {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>"}
    )
    tokens["model_max_length"] = limit
    (root / "tokenizer_config.json").write_text(json.dumps(tokens, indent=1))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    (root / "modules.json").write_text(json.dumps(listed, indent=1))
    (root / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))
    (root / "1_Pooling").mkdir()
    modes = {key: kind == pooling for kind, key in POOLINGS.items()}
    (root / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": config["hidden_size"], "include_prompt": True, **modes})
    )


def head_sizes(config: dict[str, Any]) -> tuple[int, int]:
    """(number of query heads, width of one)."""
    heads = int(config["num_attention_heads"])
    return heads, int(config.get("head_dim", int(config["hidden_size"]) // heads))


def layer_flops(config: dict[str, Any]) -> tuple[int, int]:
    """What a token's products with weights take in a layer: those for its key and value, and all others."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads, width = head_sizes(config)
    queries, keys = heads * width, int(config.get("num_key_value_heads", heads)) * width
    up = 1 if config["model_type"] == "bert" else 2  # a gate beside it
    return 2 * 2 * hidden * keys, 2 * (2 * hidden * queries + (up + 1) * hidden * inner)

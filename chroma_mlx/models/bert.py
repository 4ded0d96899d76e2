"""BERT and XLM-RoBERTa as encoders: MiniLM, bge and e5.

Every token sees the whole text. Learned absolute positions (XLM-R counts them from behind its padding id),
one token type, layer norms behind attention and feed-forward, biases everywhere, a feed-forward with gelu.

Shapes as in batch.py, and H hidden, I the feed-forward's width, N heads, D a head's width.
Source of the maths: transformers' modeling_bert and modeling_xlm_roberta, which tests compare it with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np

from ..errors import CorruptCheckpoint, UnsupportedModel
from .activations import choose_gelu
from .architecture import positions_of
from .attention import attend
from .batch import Batch, Ints
from .host import Array
from .norms import LayerNorm
from .sight import Sight
from .weights import Weights

# What BERT had for its training tasks, and tables of positions that old checkpoints carry.
IGNORABLE: Final = re.compile(r"(.*\.)?(pooler|cls|lm_head|seq_relationship)\..*|.*\.position_ids")
FORMS: Final = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields of config.json that change the vectors. `first_position` is that of a text's first token."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    gelu: str
    first_position: int


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json; raises UnsupportedModel for what would silently change the vectors.

    A value of a wrong kind raises what reading it raises, which the caller translates.
    """
    activation = config.get("hidden_act", "gelu")
    if activation not in FORMS:
        raise UnsupportedModel(_refusal(f"hidden_act is {activation!r}, only {', '.join(FORMS)} are implemented"))
    if config.get("position_embedding_type", "absolute") not in ("absolute", None):
        raise UnsupportedModel(_refusal(f"position_embedding_type is {config['position_embedding_type']!r}"))
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise UnsupportedModel(_refusal(f"{key} is {config[key]!r}"))
    read = Config(
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        num_hidden_layers=int(config["num_hidden_layers"]),
        intermediate_size=int(config["intermediate_size"]),
        num_attention_heads=int(config["num_attention_heads"]),
        max_position_embeddings=int(config["max_position_embeddings"]),
        type_vocab_size=int(config.get("type_vocab_size", 2)),
        layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        gelu=FORMS[activation],
        # XLM-R's positions stand behind its padding id.
        first_position=int(config["max_position_embeddings"]) - positions_of(config),
    )
    counts = (read.vocab_size, read.hidden_size, read.num_hidden_layers, read.intermediate_size)
    if min(*counts, read.num_attention_heads) < 1 or read.hidden_size % read.num_attention_heads:
        raise CorruptCheckpoint(f"config.json has sizes that make no BERT model: {read}. Fetch the model again.")
    return read


def _refusal(what: str) -> str:
    return f"config.json: {what} for BERT. Computing it otherwise would give wrong vectors, so the model is refused."


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, by its name in a checkpoint, with its unquantised shape."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(config.num_hidden_layers):
        at = f"encoder.layer.{layer}."
        for name, shape in {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
            "attention.output.LayerNorm": (hidden,),
            "output.LayerNorm": (hidden,),
        }.items():
            shapes[f"{at}{name}.weight"], shapes[f"{at}{name}.bias"] = shape, shape[:1]
    return shapes


class Model:
    """The encoder: token ids to hidden states. For its threads see Encoder."""

    causal = False

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config = config
        self.words = weights.embedding("embeddings.word_embeddings")
        self.positions = weights.embedding("embeddings.position_embeddings")
        self.types = weights.embedding("embeddings.token_type_embeddings")
        self.norm = _read_norm(weights, "embeddings.LayerNorm", config)
        self.layers = [_Layer(config, weights, index) for index in range(config.num_hidden_layers)]

    def embed(self, ids: Ints, positions: Ints) -> Array:
        """See Encoder."""
        tokens = mx.array(ids)
        rows = self._rows(tokens, positions)
        return self.norm(self.words(tokens) + self.positions(rows) + self.types(mx.zeros_like(rows)))

    def __call__(self, batch: Batch, x: Array | None = None) -> Array:
        """Hidden states of the wanted tokens behind the last layer: (n, H) in the dtype of the activations."""
        x = self.embed(batch.ids, batch.positions) if x is None else x  # (T, H)
        for layer in self.layers:
            x = layer(x, batch, last=layer is self.layers[-1])
        return x  # (n, H)

    def _rows(self, ids: mx.array, positions: Ints) -> mx.array:
        """The row of the table of positions of each token: (T,)."""
        first = self.config.first_position
        if not first:
            return mx.array(positions)
        # XLM-R counts past a padding token that is in a text, and gives it the place before the first.
        real = (ids != first - 1).astype(mx.int32)
        counted = mx.cumsum(real)  # over all texts
        before = (counted - real)[mx.array(np.arange(len(positions)) - positions)]  # those of earlier texts
        return mx.where(real, counted - before + first - 1, first - 1)


class _Layer:
    """One transformer block, its norms behind the sums."""

    def __init__(self, config: Config, weights: Weights, index: int) -> None:
        at = f"encoder.layer.{index}."
        self.heads, self.host = config.num_attention_heads, weights.host
        self.gelu = choose_gelu(weights, config.gelu)
        self.query = weights.linear(f"{at}attention.self.query", bias=True)
        self.key = weights.linear(f"{at}attention.self.key", bias=True)
        self.value = weights.linear(f"{at}attention.self.value", bias=True)
        self.mix = weights.linear(f"{at}attention.output.dense", bias=True)
        self.attention_norm = _read_norm(weights, f"{at}attention.output.LayerNorm", config)
        self.up = weights.linear(f"{at}intermediate.dense", bias=True)
        self.down = weights.linear(f"{at}output.dense", bias=True)
        self.norm = _read_norm(weights, f"{at}output.LayerNorm", config)

    def __call__(self, x: Array, batch: Batch, *, last: bool) -> Array:
        """x: (T, H). Returns (T, H), or behind the `last` layer the wanted, (n, H)."""
        own = batch.take(x, last=last)  # (n, H)
        mixed = attend(
            batch,
            self.query(own),
            self.key(x),
            self.value(x),
            heads=self.heads,
            key_heads=self.heads,
            scale=(x.shape[1] // self.heads) ** -0.5,
            sight=Sight(),
            host=self.host,
            last=last,
        )
        x = self.attention_norm(own + self.mix(mixed))  # (n, H)
        return self.norm(x + self.down(self.gelu(self.up(x))))  # (n, I) between


def _read_norm(weights: Weights, path: str, config: Config) -> LayerNorm:
    weight, bias = weights.vector(f"{path}.weight"), weights.vector(f"{path}.bias")
    return LayerNorm(weight, bias, config.layer_norm_eps, host=weights.host)

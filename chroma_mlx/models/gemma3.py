"""Gemma 3 as a bidirectional encoder: EmbeddingGemma without its dense layers.

Every token sees those before and behind it: all of them in a full layer, in a sliding one those at most half
the window away (transformers halves `sliding_window` for the bidirectional model, whatever the file says).
Norms before and behind attention and feed-forward, each with 1 + weight; norms on each head's queries and
keys; two rotary bases, one for each kind of layer; a feed-forward with gelu; token embeddings scaled by the
root of the width.

Shapes as in batch.py, and H hidden, I the feed-forward's width, N query heads, K key-value heads, D a head's width.
Source of the maths: transformers' modeling_gemma3, which tests compare it with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np

from ..errors import CorruptCheckpoint, UnsupportedModel
from .activations import choose_geglu
from .attention import attend
from .batch import Batch, Ints
from .host import Array
from .norms import RMSNorm
from .placing import place_both
from .sight import Sight
from .weights import Weights

IGNORABLE: Final = re.compile(r"(.*\.)?lm_head\..*|.*rotary_emb.*\.inv_freq")
SLIDING, FULL = "sliding_attention", "full_attention"
# transformers' Gemma3TextConfig, for keys that a conversion leaves out.
DEFAULT_PATTERN: Final = 6
BASES: Final = {SLIDING: ("rope_local_base_freq", 10_000.0), FULL: ("rope_theta", 1_000_000.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields of config.json that change the vectors. `reach` is how far a sliding layer's token sees."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    attention_scale: float
    kinds: tuple[str, ...]
    reach: int
    rope: Mapping[str, tuple[float, float]]  # a kind's base, and the scale of its positions


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json; raises UnsupportedModel for what would silently change the vectors.

    A value of a wrong kind raises what reading it raises, which the caller translates.
    """
    if config.get("use_bidirectional_attention") is not True:
        raise UnsupportedModel(
            _refusal(
                f"use_bidirectional_attention is {config.get('use_bidirectional_attention')!r}, only the bidirectional "
                "model, EmbeddingGemma, is implemented"
            )
        )
    activation = config.get("hidden_activation") or config.get("hidden_act") or "gelu_pytorch_tanh"
    if activation != "gelu_pytorch_tanh":
        raise UnsupportedModel(_refusal(f"the activation is {activation!r}, only 'gelu_pytorch_tanh' is implemented"))
    for key in ("attn_logit_softcapping", "attention_bias"):
        if config.get(key):
            raise UnsupportedModel(_refusal(f"{key} is {config[key]!r}, which is not implemented"))
    layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or 256)
    read = Config(
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        num_hidden_layers=layers,
        intermediate_size=int(config["intermediate_size"]),
        num_attention_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        attention_scale=float(config.get("query_pre_attn_scalar") or 256) ** -0.5,
        kinds=_read_kinds(config, layers),
        reach=int(config.get("sliding_window") or 4_096) // 2,
        rope={kind: _read_rope(config, kind) for kind in (SLIDING, FULL)},
    )
    counts = (read.vocab_size, read.hidden_size, layers, read.intermediate_size, heads, read.num_key_value_heads)
    if min(*counts, head_dim) < 1 or heads % read.num_key_value_heads:
        raise CorruptCheckpoint(f"config.json has sizes that make no Gemma model: {read}. Fetch the model again.")
    return read


def _refusal(what: str) -> str:
    return f"config.json: {what} for Gemma 3. Computing it otherwise would give wrong vectors, so the model is refused."


def _read_kinds(config: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """The kind of each layer, as transformers derives `layer_types` where it is not given."""
    pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or DEFAULT_PATTERN)
    kinds = config.get("layer_types") or [SLIDING if (layer + 1) % pattern else FULL for layer in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {SLIDING, FULL}:
        raise CorruptCheckpoint(f"config.json: layer_types is {kinds!r} for {layers} layers. Fetch the model again.")
    return tuple(kinds)


def _read_rope(config: Mapping[str, Any], kind: str) -> tuple[float, float]:
    """(base, scale of positions) of a kind of layer. transformers 5 nests both under rope_parameters."""
    key, default = BASES[kind]
    nested = (config.get("rope_parameters") or {}).get(kind)
    # Older files have one rope_scaling, which is the full layers' alone.
    scaling = nested or (config.get("rope_scaling") if kind == FULL else None) or {}
    name = scaling.get("rope_type") or scaling.get("type") or "default"
    if name not in ("default", "linear"):
        raise UnsupportedModel(_refusal(f"rope scaling is {name!r}, only 'default' and 'linear' are implemented"))
    base = float(scaling.get("rope_theta", config.get(key, default)))
    factor = float(scaling["factor"]) if name == "linear" else 1.0
    if not (base > 0 and factor > 0):
        raise CorruptCheckpoint(f"config.json: {key} is {base} and the factor {factor}. Fetch the model again.")
    return base, 1.0 / factor


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, by its name in a checkpoint, with its unquantised shape."""
    hidden, inner, width = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, hidden), "norm.weight": (hidden,)}
    for layer in range(config.num_hidden_layers):
        shapes |= {
            f"layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": (queries, hidden),
                "self_attn.k_proj": (keys, hidden),
                "self_attn.v_proj": (keys, hidden),
                "self_attn.o_proj": (hidden, queries),
                "self_attn.q_norm": (width,),
                "self_attn.k_norm": (width,),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
                "pre_feedforward_layernorm": (hidden,),
                "post_feedforward_layernorm": (hidden,),
            }.items()
        }
    return shapes


class Model:
    """The encoder: token ids to hidden states. For its threads see Encoder."""

    causal = False

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config = config
        self.embed_tokens = weights.embedding("embed_tokens")
        self.layers = [_Layer(config, weights, index) for index in range(config.num_hidden_layers)]
        self.norm = _read_norm(weights, "norm", config)

    def embed(self, ids: Ints, positions: Ints) -> Array:
        """See Encoder."""
        x = self.embed_tokens(mx.array(ids))
        # In float32: rounded to bfloat16 the root would shift every embedding.
        root = self.config.hidden_size**0.5
        return x * np.float32(root) if isinstance(x, np.ndarray) else (x.astype(mx.float32) * root).astype(x.dtype)

    def __call__(self, batch: Batch, x: Array | None = None) -> Array:
        """Hidden states of the wanted tokens after the final norm: (n, H) in the dtype of the activations."""
        x = self.embed(batch.ids, batch.positions) if x is None else x  # (T, H)
        for layer in self.layers:
            x = layer(x, batch, last=layer is self.layers[-1])
        return self.norm(x)  # (n, H)


class _Layer:
    """One transformer block."""

    def __init__(self, config: Config, weights: Weights, index: int) -> None:
        at = f"layers.{index}."
        self.geglu = choose_geglu(weights)
        self.attention = _Attention(config, weights, f"{at}self_attn.", config.kinds[index])
        self.before_attention = _read_norm(weights, f"{at}input_layernorm", config)
        self.after_attention = _read_norm(weights, f"{at}post_attention_layernorm", config)
        self.before_feed_forward = _read_norm(weights, f"{at}pre_feedforward_layernorm", config)
        self.after_feed_forward = _read_norm(weights, f"{at}post_feedforward_layernorm", config)
        self.gate = weights.linear(f"{at}mlp.gate_proj")
        self.up = weights.linear(f"{at}mlp.up_proj")
        self.down = weights.linear(f"{at}mlp.down_proj")

    def __call__(self, x: Array, batch: Batch, *, last: bool) -> Array:
        """x: (T, H). Returns (T, H), or behind the `last` layer the wanted, (n, H)."""
        mixed = self.attention(self.before_attention(x), batch, last=last)
        x = batch.take(x, last=last) + self.after_attention(mixed)
        h = self.before_feed_forward(x)
        return x + self.after_feed_forward(self.down(self.geglu(self.gate(h), self.up(h))))  # (n, I) between


class _Attention:
    """Grouped-query attention with normalised queries and keys and rotary positions."""

    def __init__(self, config: Config, weights: Weights, at: str, kind: str) -> None:
        self.config, self.host = config, weights.host
        self.sight = Sight(before=config.reach, after=config.reach) if kind == SLIDING else Sight()
        base, scale = config.rope[kind]
        self.q_proj = weights.linear(f"{at}q_proj")
        self.k_proj = weights.linear(f"{at}k_proj")
        self.v_proj = weights.linear(f"{at}v_proj")
        self.o_proj = weights.linear(f"{at}o_proj")
        self.placing = place_both(
            _stored_less_one(weights, f"{at}q_norm"),
            _stored_less_one(weights, f"{at}k_norm"),
            eps=config.rms_norm_eps,
            base=base,
            scale=scale,
        )

    def __call__(self, x: Array, batch: Batch, *, last: bool) -> Array:
        """x: (T, H). Returns (T, H), or behind the `last` layer the wanted, (n, H)."""
        c = self.config
        mixed = attend(
            batch,
            self.q_proj(batch.take(x, last=last)),
            self.k_proj(x),
            self.v_proj(x),
            heads=c.num_attention_heads,
            key_heads=c.num_key_value_heads,
            scale=c.attention_scale,
            sight=self.sight,
            host=self.host,
            last=last,
            placing=self.placing,
        )
        return self.o_proj(mixed)  # (n, N * D) to (n, H)


def _read_norm(weights: Weights, path: str, config: Config) -> RMSNorm:
    return RMSNorm(_stored_less_one(weights, path), config.rms_norm_eps, host=weights.host)


def _stored_less_one(weights: Weights, path: str) -> mx.array:
    """The weight of an RMS norm: in float32, as the reference adds and multiplies, since bfloat16 would round most of
    what is stored away."""
    weight = 1.0 + weights.vector(f"{path}.weight").astype(mx.float32)
    mx.eval(weight)  # other threads look into it
    return weight

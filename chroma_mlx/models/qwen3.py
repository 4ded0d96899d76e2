"""Qwen3 as an encoder: the decoder of Qwen3-Embedding without its logits.

A causal transformer: RMS norms before attention and feed-forward, RMS norms on each head's queries and
keys, rotary positions, grouped key-value heads, a SwiGLU feed-forward. A causal token never sees what stands
after it: what a prefix gives does not depend on the text behind it, so it can be computed once and reused.

Shapes as in batch.py, and H hidden, I the feed-forward's width, N query heads, K key-value heads, D a head's width.
Source of the maths: transformers' modeling_qwen3 and mlx-lm's models/qwen3; both are compared in tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx

from ..errors import CorruptCheckpoint, UnsupportedModel
from .activations import choose_swiglu
from .attention import attend
from .batch import Batch, Ints, KeysValues
from .host import Array
from .norms import RMSNorm
from .placing import place_both
from .sight import Sight
from .weights import Weights

# The logits' matrix, and rotary tables that old checkpoints carry.
IGNORABLE: Final = re.compile(r"(.*\.)?lm_head\..*|.*rotary_emb\.inv_freq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The fields of config.json that change the vectors."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scale: float
    attention_bias: bool
    windows: tuple[int | None, ...]  # a layer's: None sees all before it, an int this many tokens


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads config.json; raises UnsupportedModel for what would silently change the vectors.

    A value of a wrong kind raises what reading it raises, which the caller translates.
    """
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(_refusal(f"hidden_act is {config['hidden_act']!r}, only 'silu' is implemented"))
    for key, causal in (("is_causal", True), ("use_bidirectional_attention", False)):
        if config.get(key, causal) not in (causal, None):
            raise UnsupportedModel(_refusal(f"{key} is {config[key]!r}, only causal attention is implemented"))
    theta, scale = _read_rope(config)
    heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
    read = Config(
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        num_hidden_layers=layers,
        intermediate_size=int(config["intermediate_size"]),
        num_attention_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or 128),  # transformers' Qwen3Config default
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scale=scale,
        attention_bias=bool(config.get("attention_bias", False)),
        windows=_read_windows(config, layers),
    )
    counts = (read.vocab_size, read.hidden_size, layers, read.intermediate_size, heads, read.num_key_value_heads)
    if min(*counts, read.head_dim) < 1 or heads % read.num_key_value_heads:
        raise CorruptCheckpoint(f"config.json has sizes that make no Qwen3 model: {read}. Fetch the model again.")
    return read


def _refusal(what: str) -> str:
    return f"config.json: {what} for Qwen3. Computing it otherwise would give wrong vectors, so the model is refused."


def _read_rope(config: Mapping[str, Any]) -> tuple[float, float]:
    """(base, scale of positions). transformers 5 nests both under rope_parameters."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("default", "linear"):
        raise UnsupportedModel(_refusal(f"rope scaling is {kind!r}, only 'default' and 'linear' are implemented"))
    theta = float(scaling.get("rope_theta", config.get("rope_theta", 10_000.0)))
    factor = float(scaling["factor"]) if kind == "linear" else 1.0
    if not (theta > 0 and factor > 0):
        raise CorruptCheckpoint(f"config.json: rope_theta is {theta} and the factor {factor}. Fetch the model again.")
    return theta, 1.0 / factor


def _read_windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """A window per layer, as transformers' Qwen3Config derives `layer_types` where it is not given."""
    given = config.get("sliding_window") if config.get("use_sliding_window") else None
    window = None if given is None else int(given)
    first = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if window is not None and layer >= first else "full_attention" for layer in range(layers)
    ]
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise CorruptCheckpoint(f"config.json: layer_types is {kinds!r} for {layers} layers. Fetch the model again.")
    if "sliding_attention" in kinds and window is not None and window < 1:
        raise CorruptCheckpoint(f"config.json: sliding_window is {window!r}, not a number of tokens. Fetch it again.")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, by its name in a checkpoint, with its unquantised shape."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, hidden), "norm.weight": (hidden,)}
    projections = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
    }
    for layer in range(config.num_hidden_layers):
        at = f"layers.{layer}."
        for name, shape in projections.items():
            shapes[f"{at}self_attn.{name}.weight"] = shape
            if config.attention_bias:
                shapes[f"{at}self_attn.{name}.bias"] = shape[:1]
        shapes[f"{at}self_attn.q_norm.weight"] = shapes[f"{at}self_attn.k_norm.weight"] = (config.head_dim,)
        shapes[f"{at}mlp.gate_proj.weight"] = shapes[f"{at}mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}input_layernorm.weight"] = shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    return shapes


class Model:
    """The encoder: token ids to hidden states. For its threads see Encoder."""

    causal = True

    def __init__(self, config: Config, weights: Weights) -> None:
        self.config = config
        self.embed_tokens = weights.embedding("embed_tokens")
        self.layers = [_Layer(config, weights, index) for index in range(config.num_hidden_layers)]
        self.norm = RMSNorm(weights.vector("norm.weight"), config.rms_norm_eps, host=weights.host)

    def embed(self, ids: Ints, positions: Ints) -> Array:
        """See Encoder."""
        return self.embed_tokens(mx.array(ids))

    def __call__(self, batch: Batch, x: Array | None = None) -> Array:
        """Hidden states of the wanted tokens after the final norm: (n, H) in the dtype of the activations."""
        x = self.embed(batch.ids, batch.positions) if x is None else x  # (T, H)
        for index, layer in enumerate(self.layers):
            prefix = None if batch.prefix is None else batch.prefix.layers[index]
            x = layer(x, batch, prefix, last=layer is self.layers[-1])
        return self.norm(x)  # (n, H)


class _Layer:
    """One transformer block."""

    def __init__(self, config: Config, weights: Weights, index: int) -> None:
        at = f"layers.{index}."
        self.swiglu = choose_swiglu(weights)
        self.attention = _Attention(config, weights, f"{at}self_attn.", config.windows[index])
        self.attention_norm, self.feed_forward_norm = (
            RMSNorm(weights.vector(f"{at}{name}.weight"), config.rms_norm_eps, host=weights.host)
            for name in ("input_layernorm", "post_attention_layernorm")
        )
        self.gate = weights.linear(f"{at}mlp.gate_proj")
        self.up = weights.linear(f"{at}mlp.up_proj")
        self.down = weights.linear(f"{at}mlp.down_proj")

    def __call__(self, x: Array, batch: Batch, prefix: KeysValues | None, *, last: bool) -> Array:
        """x: (T, H). Returns (T, H), or behind the `last` layer the wanted, (n, H)."""
        x = batch.take(x, last=last) + self.attention(self.attention_norm(x), batch, prefix, last=last)
        h = self.feed_forward_norm(x)
        return x + self.down(self.swiglu(self.gate(h), self.up(h)))  # (n, I) between


class _Attention:
    """Grouped-query attention with normalised queries and keys and rotary positions."""

    def __init__(self, config: Config, weights: Weights, at: str, window: int | None) -> None:
        self.config, self.host = config, weights.host
        self.sight = Sight(before=None if window is None else window - 1, after=0)
        bias = config.attention_bias
        self.q_proj = weights.linear(f"{at}q_proj", bias=bias)
        self.k_proj = weights.linear(f"{at}k_proj", bias=bias)
        self.v_proj = weights.linear(f"{at}v_proj", bias=bias)
        self.o_proj = weights.linear(f"{at}o_proj", bias=bias)
        self.placing = place_both(
            weights.vector(f"{at}q_norm.weight"),
            weights.vector(f"{at}k_norm.weight"),
            eps=config.rms_norm_eps,
            base=config.rope_theta,
            scale=config.rope_scale,
        )

    def __call__(self, x: Array, batch: Batch, prefix: KeysValues | None, *, last: bool) -> Array:
        """x: (T, H). Returns (T, H), or behind the `last` layer the wanted, (n, H)."""
        c = self.config
        mixed = attend(
            batch,
            self.q_proj(batch.take(x, last=last)),
            self.k_proj(x),
            self.v_proj(x),
            heads=c.num_attention_heads,
            key_heads=c.num_key_value_heads,
            scale=c.head_dim**-0.5,
            sight=self.sight,
            host=self.host,
            last=last,
            placing=self.placing,
            prefix=prefix,
        )
        return self.o_proj(mixed)  # (n, N * D) to (n, H)

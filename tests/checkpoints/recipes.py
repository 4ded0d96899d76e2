"""What each checkpoint in this folder is: shapes, layout, packing, and what its files declare. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Of Qwen3-Embedding's own files.
PROMPTS: Final = {
    "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    "document": "",
}
VOCABULARY: Final = 384
# As in Qwen3 the heads together are wider than the hidden state.
NARROW: Final = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
# Packed rows come in groups of up to 64.
WIDE: Final = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One checkpoint.

    `layout` is "official", "sharded" (with an untied lm_head), "resaved", "subfolder" (an old 0_Transformer)
    or "mlx" (`model.` keys, none of the files of sentence-transformers). `packing` is what goes under
    `quantization` in config.json, module paths relative to the model's root; `false` leaves one unpacked.
    `own` names the folder's tokenizer: "appends" the end token, or "plain". `max_tokens` and `lower_case`
    are of sentence_bert_config.json.
    """

    shape: Mapping[str, int] = field(default_factory=lambda: NARROW)
    layout: str = "official"
    dtype: str = "bfloat16"
    config: Mapping[str, Any] = field(default_factory=dict)
    packing: Mapping[str, Any] | None = None
    prompts: Mapping[str, str] = field(default_factory=lambda: PROMPTS)
    pooling: str = "lasttoken"
    include_prompt: bool = True
    max_tokens: int | None = None
    lower_case: bool = False
    tokenizer: str = "appends"

    @property
    def threshold(self) -> float:
        """The smallest cosine to the reference that is right."""
        return 0.9999 if self.dtype == "float32" and self.packing is None else 0.999


def _packed(**packing: Any) -> Recipe:
    return Recipe(shape=WIDE, layout="mlx", packing=packing)


RECIPES: Final[dict[str, Recipe]] = {
    "official-float32": Recipe(dtype="float32"),
    "official-bfloat16": Recipe(shape=WIDE),
    "sharded-untied": Recipe(layout="sharded", config={"tie_word_embeddings": False}),
    "resaved": Recipe(
        layout="resaved",
        dtype="float32",
        prompts={"query": "Represent this question for retrieval: ", "document": "doc: "},
    ),
    "subfolder": Recipe(layout="subfolder", max_tokens=96),
    "short-limit": Recipe(max_tokens=24, prompts={"query": "search: ", "document": ""}),
    "lower-case": Recipe(lower_case=True, max_tokens=512),
    "mean-without-prompt": Recipe(
        pooling="mean", include_prompt=False, prompts={"query": "search for: ", "document": "title: none\ntext: "}
    ),
    "cls": Recipe(pooling="cls", include_prompt=False, prompts={"query": "search for: ", "document": ""}),
    "sliding-window": Recipe(
        config={
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        }
    ),
    "attention-bias": Recipe(config={"attention_bias": True}),
    "linear-rope": Recipe(config={"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "mlx-float16": Recipe(layout="mlx", dtype="float16"),
    "mlx-4bit": _packed(group_size=64, bits=4),
    "mlx-8bit": _packed(group_size=32, bits=8, mode="affine"),
    "mlx-mixed": _packed(
        **{
            "group_size": 64,
            "bits": 4,
            "embed_tokens": {"group_size": 32, "bits": 8},
            "layers.0.self_attn.v_proj": {"group_size": 64, "bits": 6},
            "layers.0.mlp.down_proj": {"group_size": 128, "bits": 3},
            "layers.1.self_attn.o_proj": False,
            "layers.1.mlp.up_proj": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
        }
    ),
    "mlx-mxfp8": _packed(group_size=32, bits=8, mode="mxfp8"),
    "mlx-mxfp4": _packed(group_size=32, bits=4, mode="mxfp4"),
    "mlx-nvfp4": _packed(group_size=16, bits=4, mode="nvfp4"),
    "mlx-4bit-plain-tokenizer": Recipe(
        shape=WIDE,
        layout="mlx",
        packing={"group_size": 64, "bits": 4},
        tokenizer="plain",
        config={"max_position_embeddings": 48},
    ),
}

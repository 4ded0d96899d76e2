"""What an architecture's file holds, and where each one is found.

An architecture is one module beside this one and one row of ARCHITECTURES: its module and what holds where a
checkpoint declares nothing (here, so that knowing it needs no MLX). The module has
    IGNORABLE          names of tensors that may be there and are not needed
    read_config        config.json to a frozen dataclass; refuses what it would compute wrongly
    parameter_shapes   every tensor the model needs, with its unquantised shape
    Model              made of the configuration and the weights; a batch of texts to hidden states
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ..errors import UnsupportedModel

if TYPE_CHECKING:
    import mlx.core as mx

    from .batch import Batch
    from .weights import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a checkpoint declares nothing.

    `pooling` is "last", "mean" or "cls"; `prompts` what is put before a query, a document, and for other
    tasks by name; `start_token` and `end_token` stand around every text, put there when the checkpoint's
    tokenizer does not. A bare task is put into `query_template`, where the architecture has one.
    `dense_layers` follow the pooling. With `absolute_positions` a text has no more tokens than config.json
    has positions (from `positions_of`); rotary ones go on.
    """

    pooling: str
    prompts: Mapping[str, str]
    end_token: str | None
    query_template: str | None
    start_token: str | None = None
    dense_layers: int = 0
    absolute_positions: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The module of an architecture, beside this one, and its defaults."""

    module: str
    defaults: Defaults


GEMMA_QUERY: Final = "task: {task} | query: "
GEMMA_TASKS: Final = {
    "BitextMining": "search result",
    "Clustering": "clustering",
    "Classification": "classification",
    "InstructionRetrieval": "code retrieval",
    "MultilabelClassification": "classification",
    "PairClassification": "sentence similarity",
    "Reranking": "search result",
    "Retrieval": "search result",
    "Retrieval-query": "search result",
    "STS": "sentence similarity",
    "Summarization": "summarization",
}
QWEN3_QUERY: Final = "Instruct: {task}\nQuery:"
BERT: Final = Defaults(
    pooling="mean",
    prompts={"query": "", "document": ""},
    start_token="[CLS]",
    end_token="[SEP]",
    query_template=None,
    absolute_positions=True,
)
# By config.json's model_type.
ARCHITECTURES: Final = {
    "qwen3": Row(
        "qwen3",
        Defaults(
            pooling="last",
            prompts={
                "query": QWEN3_QUERY.format(
                    task="Given a web search query, retrieve relevant passages that answer the query"
                ),
                "document": "",
            },
            # The model was trained to gather the text at this token, which tokenizer_config's eos_token is not.
            end_token="<|endoftext|>",
            query_template=QWEN3_QUERY,
        ),
    ),
    # EmbeddingGemma; source: config_sentence_transformers.json of google/embeddinggemma-300m.
    "gemma3_text": Row(
        "gemma3",
        Defaults(
            pooling="mean",
            prompts={
                "query": GEMMA_QUERY.format(task="search result"),
                "document": "title: none | text: ",
                "Retrieval-document": "title: none | text: ",
                **{name: GEMMA_QUERY.format(task=task) for name, task in GEMMA_TASKS.items()},
            },
            start_token="<bos>",
            end_token="<eos>",
            query_template=GEMMA_QUERY,
            dense_layers=2,
        ),
    ),
    "bert": Row("bert", BERT),
    "xlm-roberta": Row("bert", replace(BERT, start_token="<s>", end_token="</s>")),
}


class Config(Protocol):
    """What every architecture's configuration has."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...


class Encoder(Protocol):
    """A batch of texts to the hidden states of the tokens it wants, (n, H).

    `causal` says that no token sees what stands behind it, and that the encoder takes and keeps prefixes.
    """

    causal: bool

    def __call__(self, batch: Batch) -> mx.array: ...


class Architecture(Protocol):
    """The module of an architecture."""

    IGNORABLE: re.Pattern[str]

    def read_config(self, config: Mapping[str, Any]) -> Config: ...
    def parameter_shapes(self, config: Config) -> dict[str, tuple[int, ...]]: ...
    def Model(self, config: Config, weights: Weights) -> Encoder: ...  # noqa: N802 - it is a class there


def find_defaults(config: Mapping[str, Any]) -> Defaults:
    """What holds for config.json's `model_type` where a checkpoint declares nothing. Raises UnsupportedModel."""
    return _row(config).defaults


def positions_of(config: Mapping[str, Any]) -> int:
    """The most tokens that config.json has positions for; XLM-R's stand behind its padding id."""
    positions = int(config.get("max_position_embeddings") or 2**31)
    return (
        positions - int(config.get("pad_token_id", 1)) - 1 if config.get("model_type") == "xlm-roberta" else positions
    )


def find_architecture(config: Mapping[str, Any]) -> Architecture:
    """The module for config.json's `model_type`; raises UnsupportedModel when there is none.

    Importing it imports MLX, so this is called on the MLX thread.
    """
    return cast(Architecture, importlib.import_module(f".{_row(config).module}", __package__))


def _row(config: Mapping[str, Any]) -> Row:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"config.json: model_type is {kind!r}, which is not implemented. Implemented are "
            f"{', '.join(sorted(ARCHITECTURES))}. Use a checkpoint of one of these."
        )
    return ARCHITECTURES[kind]

"""The architectures that are implemented: the module of each, and what holds where a checkpoint declares nothing.

Data only, so that knowing it needs no MLX, and the table of known models can be held to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final


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

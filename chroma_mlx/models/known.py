"""The table of known models: data only, a source for every figure.

What a checkpoint declares wins over this table; the table fills what it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from ..errors import ConfigError
from ..rules import COUNT, TEXT, Rule, one_of, optional, refusals, shown
from .defaults import ARCHITECTURES

# Of a model's page at the Hub: https://huggingface.co/ and the name.
HUB: Final = "https://huggingface.co/"
# A repository at the Hub: owner/name.
REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHORT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _are_prompts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(TEXT.accepts(each) for pair in value.items() for each in pair)


# By the field of a row.
RULES: Final[Mapping[str, Rule]] = {
    "name": Rule(
        accepts=lambda value: isinstance(value, str) and SHORT_NAME.fullmatch(value) is not None,
        allowed="a short name of letters, digits, '.', '_' and '-', without a slash (a folder needs no row: its path "
        "is its name)",
    ),
    "repo_id": optional(
        Rule(
            accepts=lambda value: isinstance(value, str) and REPO_ID.fullmatch(value) is not None,
            allowed="the id of a repository at the Hub, owner/name",
        )
    ),
    "architecture": one_of(*sorted(ARCHITECTURES)),
    "dimension": COUNT,
    "min_dimension": COUNT,
    "max_tokens": Rule(
        accepts=lambda value: COUNT.accepts(value) and value >= 2, allowed="a whole number of 2 or more"
    ),
    "pooling": one_of("last", "mean", "cls"),
    "parameters": COUNT,
    "bits": Rule(
        accepts=lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 64,
        allowed="a number of bits a parameter, 1 to 64",
    ),
    "licence": TEXT,
    "summary": TEXT,
    "source": TEXT,
    "prompts": optional(
        Rule(accepts=_are_prompts, allowed='a table of texts, such as {"query": "query: ", "document": "passage: "}')
    ),
    "revision": optional(
        Rule(
            accepts=lambda value: TEXT.accepts(value) and bool(value) and not any(map(str.isspace, value)),
            allowed="a branch, tag or commit",
        )
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One row: what a short name stands for.

    `repo_id` is None for the model inside this package. `revision` is a branch, tag or commit of the
    repository, None its main branch. `architecture` is config.json's model_type. `dimension` is the full
    width of a vector; `min_dimension` the smallest Matryoshka width its makers state, the same where they
    state none. `max_tokens` is the context its makers state, in tokens, the end token included. `prompts`
    are put before a query and a document where the checkpoint names none; None is what the architecture has.
    `bits` a parameter, scales included, times `parameters` is the size of the download. `source` says
    where the figures come from.
    Raises ConfigError, naming every value that is not allowed.
    """

    name: str
    repo_id: str | None
    architecture: str
    dimension: int
    min_dimension: int
    max_tokens: int
    pooling: str
    parameters: int
    bits: float
    licence: str
    summary: str
    source: str
    prompts: Mapping[str, str] | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        problems = [
            problem for _, problem in refusals({each.name: getattr(self, each.name) for each in fields(self)}, RULES)
        ]
        if not problems and self.min_dimension > self.dimension:
            problems.append(
                f"min_dimension is {self.min_dimension}, which is more than the dimension, {self.dimension}. Set it to "
                "the smallest Matryoshka width, or to the dimension where there is no smaller one."
            )
        if problems:
            raise ConfigError(
                f"The row of the model {shown(self.name)} is not valid. {' '.join(problems)}", problems=tuple(problems)
            )

    @property
    def download_bytes(self) -> int:
        """About how large the weights are."""
        return int(self.parameters * self.bits / 8)

    @property
    def quantization(self) -> str:
        """The precision of the weights, in words."""
        return {32: "float32", 16: "16 bits"}.get(int(self.bits), f"{int(self.bits)}-bit")


# (dimension, parameters): the parameters follow from the shapes in config.json.
QWEN3_SIZES: Final = {
    "0.6B": (1_024, 595_776_512),
    "4B": (2_560, 4_021_774_336),
    "8B": (4_096, 7_567_295_488),
}
# MLX's affine packing in groups of 64 has 16 bits of scale and 16 of offset a group; mxfp8 8 bits to 32 values.
PACKED_BITS: Final = {"-4bit": 4.5, "-8bit": 8.5, "-mxfp8": 8.25, "-bf16": 16.0}


def _qwen3(size: str, suffix: str, repo_id: str) -> KnownModel:
    dimension, parameters = QWEN3_SIZES[size]
    return KnownModel(
        name=f"qwen3-{size.lower()}{suffix}",
        repo_id=repo_id,
        architecture="qwen3",
        dimension=dimension,
        min_dimension=32,
        max_tokens=32_768,
        pooling="last",
        parameters=parameters,
        bits=PACKED_BITS[suffix],
        licence="Apache-2.0",
        summary=f"Qwen3-Embedding-{size}, over 100 languages",
        source=f"{HUB}Qwen/Qwen3-Embedding-{size}",
    )


def _gemma(suffix: str) -> KnownModel:
    return KnownModel(
        name=f"embeddinggemma-300m{suffix}",
        repo_id=f"mlx-community/embeddinggemma-300m{suffix}",
        architecture="gemma3_text",
        dimension=768,
        min_dimension=128,
        max_tokens=2_048,
        pooling="mean",
        parameters=307_581_696,
        bits=PACKED_BITS[suffix],
        licence="Gemma",
        summary="EmbeddingGemma 300M, over 100 languages",
        source=f"{HUB}google/embeddinggemma-300m",
    )


def _bert(
    name: str,
    repo_id: str,
    dimension: int,
    max_tokens: int,
    parameters: int,
    licence: str,
    summary: str,
    *,
    pooling: str = "mean",
    query: str = "",
    document: str = "",
) -> KnownModel:
    return KnownModel(
        name=name,
        repo_id=repo_id,
        architecture="bert",
        dimension=dimension,
        min_dimension=dimension,
        max_tokens=max_tokens,
        pooling=pooling,
        parameters=parameters,
        bits=32.0,
        licence=licence,
        summary=summary,
        source=f"{HUB}{repo_id}",
        prompts={"query": query, "document": document},
    )


BGE_QUERY: Final = "Represent this sentence for searching relevant passages: "
_ROWS: Final = (
    KnownModel(
        name="builtin",
        repo_id=None,
        architecture="qwen3",
        dimension=256,
        min_dimension=64,
        max_tokens=256,
        pooling="mean",
        parameters=7_342_848,
        bits=8.5,
        licence="Apache-2.0",
        summary="small English model inside this package: first steps, tests, CI",
        source="docs/builtin-model.md",
    ),
    _qwen3("0.6B", "-4bit", "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"),
    _qwen3("0.6B", "-8bit", "mlx-community/Qwen3-Embedding-0.6B-8bit"),
    _qwen3("0.6B", "-mxfp8", "mlx-community/Qwen3-Embedding-0.6B-mxfp8"),
    _qwen3("0.6B", "-bf16", "Qwen/Qwen3-Embedding-0.6B"),
    _qwen3("4B", "-4bit", "mlx-community/Qwen3-Embedding-4B-4bit-DWQ"),
    _qwen3("4B", "-mxfp8", "mlx-community/Qwen3-Embedding-4B-mxfp8"),
    _qwen3("4B", "-bf16", "Qwen/Qwen3-Embedding-4B"),
    _qwen3("8B", "-4bit", "mlx-community/Qwen3-Embedding-8B-4bit-DWQ"),
    _qwen3("8B", "-mxfp8", "mlx-community/Qwen3-Embedding-8B-mxfp8"),
    _qwen3("8B", "-bf16", "Qwen/Qwen3-Embedding-8B"),
    _gemma("-4bit"),
    _gemma("-8bit"),
    _gemma("-bf16"),
    _bert(
        "all-minilm-l6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        384,
        256,
        22_713_216,
        "Apache-2.0",
        "Chroma's own default model, English",
    ),
    _bert(
        "bge-small-en-v1.5",
        "BAAI/bge-small-en-v1.5",
        384,
        512,
        33_360_000,
        "MIT",
        "BGE small, English",
        pooling="cls",
        query=BGE_QUERY,
    ),
    _bert(
        "bge-base-en-v1.5",
        "BAAI/bge-base-en-v1.5",
        768,
        512,
        109_482_240,
        "MIT",
        "BGE base, English",
        pooling="cls",
        query=BGE_QUERY,
    ),
    _bert(
        "multilingual-e5-small",
        "intfloat/multilingual-e5-small",
        384,
        512,
        117_653_760,
        "MIT",
        "E5 small, about 100 languages",
        query="query: ",
        document="passage: ",
    ),
)

DEFAULT_MODEL: Final = "qwen3-0.6b-4bit"
KNOWN_MODELS: Final[dict[str, KnownModel]] = {row.name: row for row in _ROWS}


def find_known(model_name: str) -> KnownModel | None:
    """The row of a short name or of a Hub repository id, or None."""
    if model_name in KNOWN_MODELS:
        return KNOWN_MODELS[model_name]
    # Few rows, and register_model may have added one.
    return next((row for row in KNOWN_MODELS.values() if row.repo_id == model_name), None) if model_name else None


def is_own(row: KnownModel) -> bool:
    """Whether a row came with the package, so that every process on every machine has it."""
    return row in _ROWS


def register_model(model: KnownModel, *, replace: bool = False) -> None:
    """Adds a row, so that its short name works wherever a model's name does, in this process.

    Raises ConfigError for a name or a repository that is taken (a name may be, with `replace`), and for a row that is
    of no repository.
    """
    if not isinstance(model, KnownModel):
        raise ConfigError(
            f"register_model takes a KnownModel; got {type(model).__name__}. Pass KnownModel(name=…, repo_id=…, …)."
        )
    if model.repo_id is None:
        raise ConfigError(
            f"The row of the model {model.name!r} has no repo_id, so nobody knows where its files are. Set it to "
            "owner/name, its repository at the Hub. A folder needs no row: its path is its name."
        )
    taken = KNOWN_MODELS.get(model.name)
    if taken is not None and taken.repo_id is None:
        raise ConfigError(
            f"The model {model.name!r} is inside this package, and cannot be replaced. Take another name."
        )
    if taken is not None and not replace:
        raise ConfigError(f"There is a model {model.name!r} already. Take another name, or pass replace=True.")
    other = next((row for row in KNOWN_MODELS.values() if row.repo_id == model.repo_id and row is not taken), None)
    if other is not None:
        raise ConfigError(
            f"The repository {model.repo_id!r} is that of the model {other.name!r} already, and an id stands for one "
            f"row. Use {other.name!r}, or change its row: name={other.name!r} and replace=True."
        )
    KNOWN_MODELS[model.name] = model

"""The table of known models: data only, a source for every figure.

What a checkpoint declares wins over this table; the table fills what it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigError

# Of a model's page at the Hub: https://huggingface.co/ and the name.
HUB: Final = "https://huggingface.co/"


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


def register_model(model: KnownModel, *, replace: bool = False) -> None:
    """Adds a row, so that its short name works wherever a model's name does, in this process.

    Raises ConfigError for a name that is taken, unless `replace`, or a row that cannot be.
    """
    if model.name in KNOWN_MODELS and not replace:
        raise ConfigError(f"There is a model {model.name!r} already. Take another name, or pass replace=True.")
    if not model.name.strip() or "/" in model.name or not model.repo_id:
        raise ConfigError(
            f"A model has a short name without a slash, and the id of its repository at the Hub; got {model.name!r} "
            f"and {model.repo_id!r}. A folder needs no row: its path is its name."
        )
    if not 1 <= model.min_dimension <= model.dimension or model.max_tokens < 2:
        raise ConfigError(
            f"The dimensions of {model.name!r} are {model.min_dimension} to {model.dimension} and its limit is "
            f"{model.max_tokens} tokens, which cannot be. Correct the row."
        )
    KNOWN_MODELS[model.name] = model

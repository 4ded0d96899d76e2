"""Opens a folder as a checkpoint: finds its files and checks them, without loading a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ..errors import CheckpointError, ChromaMLXError, CorruptCheckpoint, ModelNotFound
from .declared import Declared, inner_path, read_declared, read_json
from .quantization import Quantization, read_quantization
from .safetensors import TensorInfo, read_header
from .weights_hash import Stamps, hash_model, stamp_files

# Some tokenizers state "no limit" as 10**30.
NO_LIMIT: Final = 2**31
# The name of the table of token embeddings, below the model's root.
TOKEN_TABLES: Final = ("embed_tokens.weight", "embeddings.word_embeddings.weight")
PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder that holds a model; names of tensors are relative to the model's root.

    Official files name the root nothing (`embed_tokens.weight`), conversions `model.`, and some nest it
    deeper: `prefix` is what was cut. The dense layers behind the pooling are `dense.0.weight`, … as in
    conversions, from whichever file they come. `config` is config.json as it stands.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    prefix: str
    quantization: Quantization | None
    declared: Declared
    tokenizer_config: Mapping[str, Any]

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer in the format of the `tokenizers` library."""
        return self.declared.transformer / "tokenizer.json"

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files that hold the tensors."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @cached_property
    def weights_hash(self) -> str:
        """A hash of the weights, the tokenizer and the settings that change vectors; see hash_model."""
        return hash_model(self.tokenizer_file, self.files, self._settings)

    @cached_property
    def stamps(self) -> Stamps:
        """The sizes and times of the files of the hashes, as they were when first asked for."""
        return stamp_files((self.tokenizer_file, *self.files))

    @cached_property
    def content_hash(self) -> str | None:
        """The same of every byte: it takes as long as reading the files. None where they no longer are as `stamps`."""
        try:
            before = self.stamps
            found = hash_model(self.tokenizer_file, self.files, self._settings, whole=True)
            return found if stamp_files((self.tokenizer_file, *self.files)) == before else None
        except OSError:
            return None

    @property
    def _settings(self) -> dict[str, Any]:
        """The settings that change vectors, wherever in the files they are."""
        own = {"include_prompt": self.declared.include_prompt, "lower_case": self.declared.lower_case}
        side = {"truncation_side": self.tokenizer_config.get("truncation_side", "right")}
        return {**self.config, **own, **side}

    @property
    def token_rows(self) -> int:
        """How many tokens have an embedding. Raises LookupError when the table is not there."""
        return next(self.tensors[name].shape[0] for name in TOKEN_TABLES if name in self.tensors)

    @property
    def max_tokens(self) -> int | None:
        """The longest input in tokens that the files allow, None when they name no limit.

        As sentence-transformers has it: its own setting, else the smaller of the tokenizer's
        `model_max_length` and the model's `max_position_embeddings`.
        """
        if self.declared.max_tokens is not None:
            return self.declared.max_tokens
        limits = (self.tokenizer_config.get("model_max_length"), self.config.get("max_position_embeddings"))
        return min((int(limit) for limit in limits if limit is not None and 0 < int(limit) < NO_LIMIT), default=None)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens `folder`; reads JSON and the headers of the weights, loads nothing.

    Raises ModelNotFound when there is no such folder, CheckpointError when it holds no checkpoint,
    CorruptCheckpoint when a file is damaged or missing, UnsupportedModel when it asks for what is not
    implemented. Nothing in the folder is ever unpickled or executed.
    """
    if not folder.is_dir():
        raise ModelNotFound(
            f"There is no folder {str(folder)!r}. Pass the folder of a checkpoint (with config.json, tokenizer.json "
            "and *.safetensors), a Hub repository id such as 'Qwen/Qwen3-Embedding-0.6B', or a short name."
        )
    with sound_values(f"A file in {folder}"):
        return _open(folder)


@contextmanager
def sound_values(where: str) -> Iterator[None]:
    """Any value of a checkpoint's files that the code which reads it stumbles over is a damaged file."""
    try:
        yield
    except ChromaMLXError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        raise CorruptCheckpoint(
            f"{where} holds a value that is not what it should be, or lacks one ({type(error).__name__}: {error}). "
            "Fetch the model again."
        ) from error


def _open(folder: Path) -> Checkpoint:
    declared = read_declared(folder)
    root = declared.transformer
    if not (root / "config.json").is_file():
        raise CheckpointError(
            f"{root} is not a checkpoint: it has no config.json. A checkpoint is the folder that holds config.json, "
            "tokenizer.json and *.safetensors; point at that one, or download the model again."
        )
    config = read_json(root / "config.json")
    tensors = _read_tensors(root)
    if not (root / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{root} has no tokenizer.json. Save the tokenizer in the fast format first: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder), with transformers installed."
        )
    prefix = _find_prefix(tensors)
    tokenizer_config = root / "tokenizer_config.json"
    return Checkpoint(
        folder=folder,
        config=config,
        tensors={
            **{name.removeprefix(prefix): info for name, info in tensors.items()},
            **_read_dense_tensors(declared),
        },
        prefix=prefix,
        quantization=read_quantization(config, prefix),
        declared=declared,
        tokenizer_config=read_json(tokenizer_config) if tokenizer_config.is_file() else {},
    )


def _read_dense_tensors(declared: Declared) -> dict[str, TensorInfo]:
    """The tensors of the dense layers that lie in folders of their own, by the names conversions give them."""
    tensors = {}
    for place, layer in enumerate(declared.dense or ()):
        for file in sorted(layer.folder.glob("*.safetensors")):
            for name, info in read_header(file).items():
                tensors[f"dense.{place}.{name.removeprefix('linear.')}"] = info
    return tensors


def _find_prefix(tensors: Mapping[str, TensorInfo]) -> str:
    """What stands before the table of token embeddings, which every architecture has."""
    for table in TOKEN_TABLES:
        found = [name for name in tensors if name.endswith(table)]
        if found:
            return min(found, key=len).removesuffix(table)
    return ""


def _read_tensors(root: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in _weight_files(root):
        if not file.is_file():
            raise CorruptCheckpoint(
                f"{file} is missing, although the index of {root.name} names it. The download was probably "
                "interrupted; fetch the model again."
            )
        tensors.update(read_header(file))
    return tensors


def _weight_files(root: Path) -> list[Path]:
    """The weight files, as transformers looks for them: one file, else an index, else any by MLX's names."""
    if (root / "model.safetensors").is_file():
        return [root / "model.safetensors"]
    index = root / "model.safetensors.index.json"
    if index.is_file():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise CorruptCheckpoint(f"{index} has no weight_map. Fetch the model again.")
        return [inner_path(root, name) for name in sorted(set(table.values()))]
    found = sorted(root.glob("model*.safetensors")) or sorted(root.glob("weights*.safetensors"))
    if not found:
        pickled = [file.name for pattern in PICKLES for file in root.glob(pattern)]
        why = f" It has {pickled[0]}, a pickle, which is never loaded since that runs code." if pickled else ""
        raise CheckpointError(
            f"{root} is not a checkpoint: it has no *.safetensors.{why} Convert the weights to safetensors, or "
            "download the model again."
        )
    return found

"""What a checkpoint's sentence-transformers files declare: modules, pooling, prompts, maximum length.

The rules are those of sentence-transformers 6.2 (modules.json, 1_Pooling/config.json,
config_sentence_transformers.json, sentence_bert_config.json). Conversions to MLX mostly leave these files
out, or keep a modules.json that points to folders which are not there: then the field is None, and the
architecture's own default holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import CorruptCheckpoint, UnsupportedModel

# Older files carry one flag a mode, newer ones a name.
POOLING_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# The order that the engine computes, and that a modules.json has to have.
MODULE_ORDER: Final = re.compile("Transformer,Pooling,(Dense,)*(Normalize,)?")
POOLING_NAMES: Final = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
SUPPORTED_POOLINGS: Final = ("last", "mean", "cls")
# sentence-transformers named this file after the architecture once, and still reads all of these.
TRANSFORMER_CONFIGS: Final = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


# A dense layer's activation, by torch's name of its class.
ACTIVATIONS: Final = {"Identity": "identity", "Tanh": "tanh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """A layer behind the pooling, in a folder of its own: (…, in_features) to (…, out_features)."""

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The sentence-transformers files in one piece; None is "not declared".

    `transformer` is the folder that holds config.json, the tokenizer and the weights. `prompts` maps a kind
    ("query", "document") or the name of another task to the text put before it. `include_prompt` False
    leaves the prompt's tokens out of the pooling. `max_tokens` counts the end token too. `dense` are the
    layers behind the pooling, None where there is no modules.json to say. `whole` is a checkpoint of
    sentence-transformers with its pooling: one that names no prompt has none, unlike a conversion.
    """

    transformer: Path
    pooling: str | None
    include_prompt: bool
    prompts: Mapping[str, str] | None
    max_tokens: int | None
    lower_case: bool
    dense: tuple[DenseLayer, ...] | None
    whole: bool


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; raises CorruptCheckpoint when it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptCheckpoint(f"{file} is not JSON: {error}. Delete it and fetch the model again.") from error
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{file} holds {type(content).__name__}, not an object. Fetch the model again.")
    return content


def inner_path(folder: Path, name: str) -> Path:
    """`folder / name`; raises CorruptCheckpoint when a checkpoint's own file points out of its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CorruptCheckpoint(f"A file in {folder} points outside of it, to {name!r}. Do not use this checkpoint.")
    return folder / name


def read_declared(folder: Path) -> Declared:
    """Reads the sentence-transformers files of `folder`.

    Raises CorruptCheckpoint for a file that is not what it should be, and UnsupportedModel for a module or
    a pooling that this engine does not compute (rather than leaving it out and being silently wrong).
    """
    transformer, pooling_folder = folder, None
    dense: list[DenseLayer] = []
    modules = _modules(folder)
    for kind, path in modules:
        if kind == "Transformer":
            inside = inner_path(folder, path)
            transformer = inside if inside.is_dir() else folder
        elif kind == "Pooling":
            pooling_folder = inner_path(folder, path)
        elif kind == "Dense":
            dense.append(_read_dense(inner_path(folder, path)))
        elif kind != "Normalize":
            raise UnsupportedModel(
                f"{folder / 'modules.json'} has a module of the kind {kind!r}, which is not implemented. "
                "Leaving it out would give wrong vectors, so the model is refused."
            )
    order = [kind for kind, _ in modules]
    if modules and not MODULE_ORDER.fullmatch("".join(f"{kind}," for kind in order)):
        raise UnsupportedModel(
            f"{folder / 'modules.json'} has the modules {', '.join(order)}. Computed are Transformer, Pooling, any "
            "number of Dense, and Normalize at the end, in this order. Another order would give wrong vectors, so the "
            "model is refused."
        )
    pooling, include_prompt = _read_pooling(pooling_folder)
    prompts = _read_prompts(folder / "config_sentence_transformers.json")
    max_tokens, lower_case = _read_limits(transformer)
    return Declared(
        transformer=transformer,
        pooling=pooling,
        include_prompt=include_prompt,
        prompts=prompts,
        max_tokens=max_tokens,
        lower_case=lower_case,
        # Conversions keep a modules.json whose folders they left out: that says nothing.
        dense=tuple(dense) if pooling is not None and modules else None,
        whole=pooling is not None,
    )


def _read_dense(folder: Path) -> DenseLayer:
    if not (folder / "config.json").is_file():
        return DenseLayer(folder=folder, in_features=0, out_features=0, bias=False, activation="identity")
    config = read_json(folder / "config.json")
    # transformers 5 names the inputs, too: anything else than the text's own vector is not computed here.
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, "sentence_embedding") not in ("sentence_embedding", None):
            raise UnsupportedModel(
                f"{folder / 'config.json'}: {key} is {config[key]!r}, only the text's vector is taken."
            )
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{folder / 'config.json'} has the activation {name!r}. Supported are {', '.join(ACTIVATIONS)}."
        )
    return DenseLayer(
        folder=folder,
        in_features=int(config["in_features"]),
        out_features=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=ACTIVATIONS[name],
    )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module, in order; empty without a modules.json."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [(entry["type"].rpartition(".")[2], entry["path"]) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptCheckpoint(f"{file} is not a list of modules: {error!r}. Fetch the model again.") from error


def _read_pooling(folder: Path | None) -> tuple[str | None, bool]:
    if folder is None or not (folder / "config.json").is_file():
        return None, True
    config = read_json(folder / "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [name for flag, name in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    mode = POOLING_NAMES.get(modes[0], modes[0]) if len(modes) == 1 else "+".join(modes)
    if mode not in SUPPORTED_POOLINGS:
        raise UnsupportedModel(
            f"{folder / 'config.json'} declares the pooling {mode!r}. Supported are {', '.join(SUPPORTED_POOLINGS)}."
        )
    return mode, bool(config.get("include_prompt", True))


def _read_prompts(file: Path) -> Mapping[str, str] | None:
    if not file.is_file():
        return None
    named = read_json(file).get("prompts")
    if named is None:
        return None
    if not isinstance(named, Mapping) or not all(isinstance(text, str | None) for text in named.values()):
        raise CorruptCheckpoint(f"{file}: prompts is not a table of texts. Fetch the model again.")
    # sentence-transformers has a "document" prompt always, empty where the file has none, so that the other
    # names its documentation mentions ("passage", "corpus") are never reached.
    texts = {name: text or "" for name, text in named.items()}
    return {**texts, "query": texts.get("query", ""), "document": texts.get("document", "")}


def _read_limits(folder: Path) -> tuple[int | None, bool]:
    file = next((folder / name for name in TRANSFORMER_CONFIGS if (folder / name).is_file()), None)
    if file is None:
        return None, False
    config = read_json(file)
    nested = config.get("processor_kwargs") or config.get("tokenizer_args") or {}
    limit = nested.get("model_max_length", config.get("max_seq_length"))
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise CorruptCheckpoint(f"{file}: the maximum length is {limit!r}, not a positive number of tokens.")
    return limit, bool(config.get("do_lower_case", False))

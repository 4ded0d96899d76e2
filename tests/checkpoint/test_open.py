"""Folders that are a checkpoint, and every way of not being one."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small import CHECKPOINTS, CONFIG, make_tensors, write_checkpoint

from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.engine.model import load_model
from chroma_mlx.errors import CheckpointError, CorruptCheckpoint, ModelNotFound, UnsupportedModel, WeightsMismatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def change_json(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.mark.parametrize("name", json.loads((CHECKPOINTS / "manifest.json").read_text(encoding="utf-8")))
def test_every_layout_has_the_same_names(name: str) -> None:
    checkpoint = open_checkpoint(CHECKPOINTS / name)
    assert "layers.1.mlp.up_proj.weight" in checkpoint.tensors
    assert checkpoint.prefix == ("model." if name.startswith("mlx-") else "")
    assert (checkpoint.quantization is None) == (not name.startswith("mlx-") or name == "mlx-float16")


@pytest.mark.parametrize("name", json.loads((CHECKPOINTS / "encoders.json").read_text(encoding="utf-8")))
def test_every_layout_of_an_encoder_has_the_same_names(name: str) -> None:
    checkpoint = open_checkpoint(CHECKPOINTS / name)
    gemma = name.startswith("gemma")
    assert ("layers.1.mlp.up_proj.weight" if gemma else "encoder.layer.1.output.dense.weight") in checkpoint.tensors
    assert ("dense.1.weight" in checkpoint.tensors) == gemma
    assert checkpoint.prefix == {"bert-mean": "bert."}.get(name, "model." if gemma and "mlx" in name else "")
    assert (checkpoint.quantization is None) == ("mlx" not in name)


def test_dense_layers_that_are_missing_are_no_dense_layers_left_out(tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINTS / "gemma-official", tmp_path / "model")
    (folder / "3_Dense" / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"has no dense\.1\.weight: the dense layers behind the pooling are missing"
    ):
        load_model(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"There is no folder .*nowhere.*Pass the folder of a checkpoint"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_folder_without_a_configuration_is_no_checkpoint(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json"):
        open_checkpoint(folder)


def test_a_folder_without_weights_is_no_checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"it has no \*\.safetensors\. Convert the weights"):
        open_checkpoint(folder)


def test_a_pickle_is_named_and_never_loaded(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"It has pytorch_model\.bin, a pickle, which is never loaded"):
        open_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_a_fast_tokenizer_says_how_to_make_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json\. Save the tokenizer in the fast format"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"not json", b'{"model_type": ', b"\xff\xfe\x00", b"[1, 2]", b"null"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "config_sentence_transformers.json"])
def test_json_garbage_names_its_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(
        CorruptCheckpoint, match=rf"{name} (is not JSON|holds \w+, not an object).*etch the model again"
    ):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    tensors = make_tensors()
    table = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(tensors)}
    first = {name: tensor for name, tensor in tensors.items() if "00001" in table[name]}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}), encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match=r"model-00002-of-00002\.safetensors is missing, although the index"):
        open_checkpoint(folder)


def test_an_index_without_a_table_is_damaged(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match=r"index\.json has no weight_map"):
        open_checkpoint(folder)


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-1], lambda whole: b"garbage!" + whole])
def test_damaged_weights_are_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors is damaged"):
        open_checkpoint(folder)


@pytest.mark.parametrize("kind", ["gpt2", "llama", None, 7, ["qwen3"]])
def test_an_architecture_that_is_not_implemented_is_refused(folder: Path, kind: Any) -> None:
    change_json(folder / "config.json", model_type=kind)
    with pytest.raises(UnsupportedModel, match=r"model_type is .*, which is not implemented\. Implemented are .*qwen3"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"is_causal": False}, "is_causal is False"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling is 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope scaling is 'llama3'"),
    ],
)
def test_what_would_give_wrong_vectors_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(UnsupportedModel, match=f"{message}.*the model is refused"):
        load_model(folder)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_configuration_without_its_sizes_is_damaged(folder: Path, key: str) -> None:
    content = {name: value for name, value in CONFIG.items() if name != key}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match=rf"config.json in .* or lacks one \(KeyError.*{key}"):
        load_model(folder)


def test_weights_that_do_not_fit_name_the_first_few(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=3, hidden_size=64)
    with pytest.raises(WeightsMismatch, match=r"11 missing \(layers\.2\.input_layernorm\.weight, .*, …\)") as caught:
        load_model(folder)
    assert "of another shape (embed_tokens.weight (260, 32), not (260, 64)," in str(caught.value)
    assert len(caught.value.missing) == 11
    assert "norm.weight" in caught.value.misshapen
    assert caught.value.unexpected == ()


def test_weights_of_another_model_are_not_left_out_silently(folder: Path) -> None:
    extra = {"dense.0.weight": np.zeros((4, 4), np.float32), "layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)}
    save_file(make_tensors() | extra, folder / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=r"2 not known \(dense\.0\.weight, layers\.0\.self_attn\.q_proj\.bias\)"):
        load_model(folder)


def test_the_matrix_of_logits_is_not_needed(folder: Path) -> None:
    save_file(make_tensors() | {"lm_head.weight": np.zeros((260, 32), np.float32)}, folder / "model.safetensors")
    assert load_model(folder, device="cpu").dimension == 32


def test_packed_weights_must_fit_their_packing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    source = CHECKPOINTS / "mlx-4bit"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change_json(folder / "config.json", quantization={"group_size": 64, "bits": 8})
    with pytest.raises(WeightsMismatch, match=r"of another shape \(embed_tokens\.weight \(384, 8\), not \(384, 16\),"):
        load_model(folder)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path) -> None:
    config = CONFIG | {"vocab_size": 258}
    folder = write_checkpoint(tmp_path / "model", config=config)
    with pytest.raises(CheckpointError, match="has 259 tokens, but the model has embeddings for 258"):
        load_model(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"rope_theta": None},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"rope_scaling": "linear"},
        {"hidden_size": "abc"},
        {"num_hidden_layers": -1},
        {"num_key_value_heads": 3},
        {"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0},
        {"quantization": {"bits": 4, "group_size": 64, "mode": ["a"]}},
    ],
    ids=str,
)
def test_a_value_that_is_not_what_it_should_be_is_damage(folder: Path, changed: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changed}), encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match=r"config.json|A file in"):
        load_model(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors"])
def test_an_index_that_points_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match="points outside of it"):
        open_checkpoint(folder)


@pytest.mark.parametrize("value", [5, ["a"]], ids=str)
def test_an_index_of_no_names_is_damage(folder: Path, value: object) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"embed_tokens.weight": value}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CorruptCheckpoint, match="holds a value that is not what it should be"):
        open_checkpoint(folder)

"""What config.json says of quantisation."""

from __future__ import annotations

from typing import Any

import pytest

from chroma_mlx.checkpoint.quantization import Packing, read_quantization
from chroma_mlx.errors import CorruptCheckpoint, UnsupportedModel

DEFAULT = {"group_size": 64, "bits": 4}


def read(declared: Any, prefix: str = "model.") -> Any:
    return read_quantization({"quantization": declared}, prefix)


def test_none_is_declared_by_saying_nothing() -> None:
    assert read_quantization({}, "") is None


@pytest.mark.parametrize(
    ("declared", "packing"),
    [
        (DEFAULT, Packing(64, 4)),
        ({"group_size": 32, "bits": 8, "mode": "affine"}, Packing(32, 8)),
        ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, Packing(32, 4, "mxfp4")),
        ({"mode": "mxfp4"}, Packing(32, 4, "mxfp4")),
        ({"mode": "mxfp8"}, Packing(32, 8, "mxfp8")),
        ({"mode": "nvfp4"}, Packing(16, 4, "nvfp4")),
        ({"bits": 8}, Packing(64, 8)),
    ],
)
def test_the_whole_models_packing_is_read_with_the_defaults_of_its_mode(declared: Any, packing: Packing) -> None:
    assert read(declared).of("layers.0.mlp.up_proj") == packing


def test_a_module_may_be_packed_otherwise_and_its_path_is_the_models() -> None:
    found = read(DEFAULT | {"model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 8}, "model.norm": False})
    assert found.of("layers.0.mlp.up_proj") == Packing(32, 8)
    assert found.of("layers.1.mlp.up_proj") == found.of("norm") == Packing(64, 4)


def test_a_module_of_another_mode_has_the_defaults_of_that_mode() -> None:
    found = read(DEFAULT | {"model.embed_tokens": {"mode": "mxfp8"}})
    assert found.of("embed_tokens") == Packing(32, 8, "mxfp8")


def test_a_module_that_says_little_keeps_what_the_model_says() -> None:
    assert read({"group_size": 32, "bits": 8, "model.a": {"bits": 4}}).of("a") == Packing(32, 4)
    assert read({"mode": "mxfp4", "model.a": {"group_size": 32}}).of("a") == Packing(32, 4, "mxfp4")


def test_the_second_key_of_mlx_lm_is_read_where_the_first_is_missing() -> None:
    found = read_quantization({"quantization_config": DEFAULT}, "")
    assert found is not None
    assert found.default == Packing(64, 4)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_a_format_of_another_framework_is_named(method: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"quantised with '{method}', which is not a format of MLX"):
        read_quantization({"quantization_config": {"quant_method": method, "bits": 4}}, "")


@pytest.mark.parametrize(
    "declared",
    [
        {"group_size": 64, "bits": 7},
        {"group_size": 48, "bits": 4},
        {"group_size": 64, "bits": "4"},
        {"group_size": None, "bits": 4},
        {"group_size": 64, "bits": 4, "mode": "mxfp4"},
        {"group_size": 64, "bits": 4, "mode": "unheard-of"},
        DEFAULT | {"model.embed_tokens": {"group_size": 64, "bits": 1}},
    ],
)
def test_a_packing_that_mlx_does_not_have_is_refused(declared: Any) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"config\.json: quantization.* asks for mode .*, which MLX does not have"
    ):
        read(declared)


@pytest.mark.parametrize("declared", [4, "4bit", [], True])
def test_what_is_no_table_is_damaged(declared: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"quantization is .*, not an object"):
        read(declared)

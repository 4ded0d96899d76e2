"""Headers of safetensors files: what is whole is read, what is not is named before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from chroma_mlx.checkpoint.safetensors import read_header
from chroma_mlx.errors import CorruptCheckpoint

Header = dict[str, Any]
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(file: Path, header: object, data: bytes = bytes(24)) -> Path:
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return file


def test_names_dtypes_and_shapes_are_read(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b.c": np.zeros((0, 4), np.float16), "d": np.array(1)}, file)
    tensors = read_header(file)
    assert {name: (info.dtype, info.shape) for name, info in tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b.c": ("F16", (0, 4)),
        "d": ("I64", ()),
    }
    assert {info.file for info in tensors.values()} == {file}


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "a": ENTRY}
    assert list(read_header(write(tmp_path / "model.safetensors", header))) == ["a"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no whole safetensors header"),
        (b"\x10\x00\x00", "no whole safetensors header"),
        (bytes(8), "no whole safetensors header"),
        ((1000).to_bytes(8, "little") + b"{}", "no whole safetensors header"),
        ((2**63).to_bytes(8, "little") + b"{}", "no whole safetensors header"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "header is not JSON"),
        ((6).to_bytes(8, "little") + b'{"a": ', "header is not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "header is not an object"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "no whole safetensors header"),
    ],
)
def test_a_file_without_a_header_is_damaged(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=rf"model\.safetensors is damaged: .*{why}.*fetch the model again"):
        read_header(file)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda header: header.update(a=7), "entry for 'a' is malformed"),
        (lambda header: header.update(a={"dtype": "F32"}), "entry for 'a' is malformed"),
        (lambda header: header["a"].update(shape=6), "entry for 'a' is malformed"),
        (lambda header: header["a"].update(shape=[2, None]), "entry for 'a' is malformed"),
        (lambda header: header["a"].update(shape=[-2, -3]), "does not fill its 24 bytes"),
        (lambda header: header["a"].update(shape=[2, 4]), "does not fill its 24 bytes"),
        (lambda header: header["a"].update(dtype="F16"), "does not fill its 24 bytes"),
        (lambda header: header["a"].update(dtype="F8_E4M3"), "the dtype F8_E4M3, which MLX has no type for"),
        (lambda header: header["a"].update(data_offsets=[0]), "entry for 'a' is malformed"),
        (lambda header: header["a"].update(data_offsets=[4, 28]), "a gap or overlap at byte 0"),
        (lambda header: header["a"].update(data_offsets=[24, 0]), "does not fill its -24 bytes"),
        (lambda header: header.update(b=dict(ENTRY)), "a gap or overlap at byte 24"),
        (lambda header: header.update(b=ENTRY | {"data_offsets": [24, 48]}), "24 bytes of tensors, but .* names 48"),
        (lambda header: header.clear(), "24 bytes of tensors, but its header names 0"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_damaged(
    tmp_path: Path, change: Callable[[Header], object], why: str
) -> None:
    header: Header = {"a": dict(ENTRY)}
    change(header)
    with pytest.raises(CorruptCheckpoint, match=why):
        read_header(write(tmp_path / "model.safetensors", header))


def test_a_download_cut_at_any_byte_is_damaged(tmp_path: Path) -> None:
    file = write(tmp_path / "model.safetensors", {"a": ENTRY})
    whole = file.read_bytes()
    assert list(read_header(file)) == ["a"]
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(CorruptCheckpoint, match="is damaged"):
            read_header(file)


def test_a_file_longer_than_its_tensors_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match="25 bytes of tensors, but its header names 24"):
        read_header(write(tmp_path / "model.safetensors", {"a": ENTRY}, bytes(25)))

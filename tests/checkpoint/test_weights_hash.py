"""The hash of a model's weights: equal for equal files, other for others, and quick for large ones."""

from __future__ import annotations

import io
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from small import CHECKPOINTS, make_tokenizer, write_checkpoint

from chroma_mlx.checkpoint import Checkpoint, open_checkpoint, weights_hash
from chroma_mlx.checkpoint.weights_hash import hash_model

SAMPLES, SAMPLE_BYTES = 8, 16
LARGE = 4 * 2**30
MOST_SECONDS = 2.0  # on an idle machine it takes a hundredth


def hash_folder(folder: Path) -> str:
    return open_checkpoint(folder).weights_hash


def hash_weights(checkpoint: Checkpoint) -> str:
    """Of the files as they are now; a checkpoint's own hash is taken once."""
    return hash_model(checkpoint.tokenizer_file, checkpoint.files, {})


def change_byte(file: Path, place: int) -> None:
    """Turns the bits of one byte; a negative place counts from the end."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "one")


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the weights of a small checkpoint a large file: one that is sampled."""
    monkeypatch.setattr(weights_hash, "SAMPLES", SAMPLES)
    monkeypatch.setattr(weights_hash, "SAMPLE_BYTES", SAMPLE_BYTES)


def test_the_same_files_elsewhere_have_the_same_hash(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "two", copy_function=shutil.copyfile)  # with times of their own

    assert hash_folder(copied) == hash_folder(folder)
    assert re.fullmatch("[0-9a-f]{16}", hash_folder(folder))


def test_the_hash_stays_over_calls_and_over_files_that_are_no_weights(folder: Path) -> None:
    before = hash_folder(folder)
    (folder / "README.md").write_text("# A model", encoding="utf-8")
    (folder / "model.safetensors").touch()

    assert hash_folder(folder) == before


@pytest.mark.parametrize("place", [-1, -1_000, -20_000])
def test_one_changed_byte_of_the_weights_changes_the_hash(folder: Path, tmp_path: Path, place: int) -> None:
    copied = shutil.copytree(folder, tmp_path / "two")
    change_byte(copied / "model.safetensors", place)

    assert hash_folder(copied) != hash_folder(folder)


def test_a_byte_changed_in_place_changes_the_hash_of_the_same_folder(folder: Path) -> None:
    before = hash_folder(folder)
    change_byte(folder / "model.safetensors", -1)

    assert hash_folder(folder) != before


def test_another_tokenizer_changes_the_hash(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "two", tokenizer=make_tokenizer(start="<|start|>"))

    assert (other / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert hash_folder(other) != hash_folder(folder)


def test_every_file_of_a_sharded_model_counts(tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINTS / "sharded-untied", tmp_path / "one", copy_function=shutil.copyfile)
    hashes = {hash_folder(folder)}
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1

    for shard in shards:
        copied = shutil.copytree(folder, tmp_path / shard.stem, copy_function=shutil.copyfile)
        change_byte(copied / shard.name, -1)
        hashes.add(hash_folder(copied))

    assert len(hashes) == len(shards) + 1


def test_the_committed_checkpoints_that_differ_have_hashes_that_differ() -> None:
    folders = [CHECKPOINTS / name for name in ("cls", "mlx-4bit", "mlx-8bit", "official-bfloat16", "official-float32")]

    assert len({hash_folder(folder) for folder in folders}) == len(folders)


class Recorder(io.FileIO):
    """A file that notes which parts of it are read."""

    parts: list[tuple[int, int]]

    def read(self, size: int | None = -1) -> bytes:
        place = self.tell()
        content = super().read(-1 if size is None else size)
        self.parts.append((place, len(content)))
        return content


@pytest.mark.usefixtures("few_samples")
def test_a_large_file_is_read_in_samples_from_its_beginning_to_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(folder)
    read: dict[str, list[tuple[int, int]]] = {}

    def open_recorded(path: Path, mode: str = "r", *_: Any, **__: Any) -> Recorder:
        assert mode == "rb"
        recorder = Recorder(path, mode)
        recorder.parts = read.setdefault(path.name, [])
        return recorder

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_recorded)
        hash_weights(checkpoint)

    weights, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    parts = read[weights.name]
    places = [place for place, _ in parts]
    gaps = [places[sample + 1] - places[sample] for sample in range(SAMPLES - 1)]
    assert weights.stat().st_size > 100 * SAMPLES * SAMPLE_BYTES
    assert [size for _, size in parts] == [SAMPLE_BYTES] * SAMPLES
    assert places[0] == 0
    assert places[-1] + SAMPLE_BYTES == weights.stat().st_size
    assert max(gaps) - min(gaps) <= 1
    assert sum(size for _, size in read[tokenizer.name]) == tokenizer.stat().st_size


@pytest.mark.usefixtures("few_samples")
def test_the_end_and_the_size_of_a_large_file_count(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "two")
    change_byte(copied / "model.safetensors", -SAMPLE_BYTES)
    longer = write_checkpoint(tmp_path / "three", files={})
    checkpoint = open_checkpoint(longer)
    with (longer / "model.safetensors").open("ab") as file:
        file.write(bytes(1))

    assert len({hash_folder(folder), hash_folder(copied), hash_weights(checkpoint)}) == 3


@pytest.mark.usefixtures("few_samples")
def test_a_file_at_the_limit_is_read_whole(tmp_path: Path) -> None:
    limit = SAMPLES * SAMPLE_BYTES
    hashes = set()
    for place in (None, 0, SAMPLE_BYTES + 1, limit - 1):
        content = bytearray(limit)
        if place is not None:
            content[place] = 1
        hashes.add(hash_weights(stand_in(tmp_path / str(place), bytes(content))))

    assert len(hashes) == 4


@pytest.mark.usefixtures("few_samples")
@pytest.mark.parametrize("gap", [0, SAMPLES // 2, SAMPLES - 2])
def test_a_byte_changed_between_the_samples_changes_only_the_hash_of_the_whole(
    folder: Path, tmp_path: Path, gap: int
) -> None:
    weights = folder / "model.safetensors"
    last = weights.stat().st_size - SAMPLE_BYTES
    between = (last * gap + last * (gap + 1)) // (2 * (SAMPLES - 1))
    copied = shutil.copytree(folder, tmp_path / "two")
    change_byte(copied / weights.name, between)
    one, other = open_checkpoint(folder), open_checkpoint(copied)

    assert other.weights_hash == one.weights_hash
    assert other.content_hash != one.content_hash


def test_the_hash_of_the_whole_is_longer_and_the_same_for_the_same_files_elsewhere(
    folder: Path, tmp_path: Path
) -> None:
    one = open_checkpoint(folder)
    other = open_checkpoint(shutil.copytree(folder, tmp_path / "two", copy_function=shutil.copyfile))

    assert one.content_hash == other.content_hash
    assert re.fullmatch("[0-9a-f]{64}", str(one.content_hash))
    assert str(one.content_hash)[:16] == one.weights_hash, "of a small file both read every byte"


def test_a_file_of_gigabytes_takes_no_time(tmp_path: Path) -> None:
    checkpoint = stand_in(tmp_path / "large", b"weights")
    with checkpoint.files[0].open("r+b") as file:
        file.truncate(LARGE)  # a hole: it takes no room on the disk

    started = time.perf_counter()
    before = hash_weights(checkpoint)
    assert time.perf_counter() - started < MOST_SECONDS
    with checkpoint.files[0].open("r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"\x01")

    assert hash_weights(checkpoint) != before


def stand_in(folder: Path, weights: bytes) -> Checkpoint:
    """What the hash asks of a checkpoint, with weights that are no tensors."""
    folder.mkdir()
    tokenizer, file = folder / "tokenizer.json", folder / "model.safetensors"
    tokenizer.write_bytes(b"{}")
    file.write_bytes(weights)
    return cast(Checkpoint, SimpleNamespace(tokenizer_file=tokenizer, files=(file,)))

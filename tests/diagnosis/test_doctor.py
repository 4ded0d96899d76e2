"""`doctor` says what is there, what is wrong, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_cache import put_into_cache
from small import CHECKPOINTS

from chroma_mlx import EmbeddingConfig
from chroma_mlx.cli import main
from chroma_mlx.diagnosis.doctor import Check, examine
from chroma_mlx.diagnosis.machine import Machine, chip, usable_memory
from chroma_mlx.errors import CheckpointDiffers, MissingPackage


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CHROMA_MLX_CACHE_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CHROMA_MLX_MODEL_NAME", "builtin")


def test_a_sound_installation_is_sound_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "versions: Python ",
        "platform: ",
        "configuration: mode mlx, model builtin; from CHROMA_MLX_",
        "MLX: ",
    ):
        assert f"ok   {part}" in printed
    assert "model: builtin: 256 dimensions" in printed
    assert "one more text in" in printed
    assert "BAD" not in printed


def test_a_model_that_is_not_there_is_bad_and_the_remedy_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODEL_NAME", "qwen3-0.6b-4bit")

    assert main(["doctor", "--json"]) == 1

    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert [name for name, check in checks.items() if not check["ok"]] == ["model"]
    assert checks["model"]["remedy"] == "`chroma-mlx models download qwen3-0.6b-4bit` on a connected machine."


def test_a_broken_configuration_is_bad_and_the_rest_is_examined(tmp_path: Path) -> None:
    (tmp_path / "embedding_config.yaml").write_text("embedding: {batch_size: none}", encoding="utf-8")

    checks = {check.name: check for check in examine()}

    assert not checks["configuration"].ok
    assert "batch_size" in checks["configuration"].found
    assert checks["MLX"].ok


def test_after_a_broken_configuration_no_model_is_missed_that_nobody_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CHROMA_MLX_MODEL_NAME")  # leaves the default, which is not here
    (tmp_path / "embedding_config.yaml").write_text("embedding: {bath_size: 3}", encoding="utf-8")

    assert main(["doctor"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("BAD")] == ["configuration:"]
    assert "--   model: not examined, since the configuration that names it is not valid" in lines
    assert not any("qwen3" in line or "to fetch" in line for line in lines)


GB = 10**9


def examined(model_name: str, **settings: Any) -> dict[str, Check]:
    """The parts by name, on a machine without a GPU that has 24 GB of memory and of disk, unless said otherwise."""
    found: dict[str, Any] = {"memory": lambda: 24 * GB, "free": lambda _: 24 * GB, "gpu": lambda: False}
    found |= {name: settings.pop(name) for name in ("memory", "free", "writable", "gpu") if name in settings}
    machine = Machine(**found)
    return {check.name: check for check in examine(EmbeddingConfig(model_name=model_name, **settings), machine)}


def test_a_model_too_large_for_the_memory_is_bad_and_not_loaded() -> None:
    checks = examined("builtin", memory=lambda: GB)

    assert not checks["memory"].ok
    assert checks["memory"].found == "1.0 GB to use; builtin needs about 1.5 GB on the CPU"
    assert checks["model"] == Check(
        "model", False, "not loaded, since it would not fit into the memory", checks["memory"].remedy
    )


@pytest.mark.parametrize(("gpu", "device", "ok"), [(True, "auto", True), (True, "cpu", False), (False, "auto", False)])
def test_a_model_needs_the_memory_of_the_device_that_it_runs_on(gpu: bool, device: str, ok: bool) -> None:
    """4-bit weights of 8B are 4.3 GB where they stay packed, and 30 GB in float32."""
    memory = examined("qwen3-8b-4bit", gpu=lambda: gpu, device=device)["memory"]

    assert memory.ok is ok
    assert memory.found.endswith("5.8 GB on the GPU" if ok else "31.8 GB on the CPU")


def test_a_machine_without_mlx_is_said_to_be_such_once() -> None:
    def fail() -> bool:
        raise ImportError("No module named 'mlx'")

    checks = examined("builtin", gpu=fail)
    assert (checks["MLX"].ok, checks["MLX"].found) == (False, "No module named 'mlx'")
    assert checks["memory"].ok


REPO = "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ"


def test_a_full_disk_is_no_problem_for_a_model_that_is_there(tmp_path: Path) -> None:
    put_into_cache(tmp_path / "models", REPO, CHECKPOINTS / "mlx-4bit")

    with pytest.warns(CheckpointDiffers, match="dimension is 64, not 1024"):  # a small one stands for it
        cache = examined(REPO, free=lambda _: 0, writable=lambda _: False, cache_dir=tmp_path / "models")["cache"]

    assert (cache.ok, cache.remedy) == (True, None)


def test_only_what_is_missing_has_to_find_room(tmp_path: Path) -> None:
    blobs = tmp_path / "models" / "models--mlx-community--Qwen3-Embedding-0.6B-4bit-DWQ" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "half.incomplete").open("wb") as file:
        file.truncate(200_000_000)  # of 335 MB
    settings = {"cache_dir": tmp_path / "models"}

    assert examined("qwen3-0.6b-4bit", free=lambda _: 140_000_000, **settings)["cache"].ok
    cache = examined("qwen3-0.6b-4bit", free=lambda _: 130_000_000, **settings)["cache"]

    assert cache.found.endswith("0.1 GB free, 0.1 GB to fetch")
    assert cache.remedy == "Too little room for the model: `chroma-mlx models prune --max-gb N`, or set cache_dir."


def test_a_cache_that_cannot_be_written_to_is_bad_while_something_is_to_be_fetched() -> None:
    checks = examined("qwen3-0.6b-4bit", writable=lambda _: False)
    assert "cannot be written to" in (checks["cache"].remedy or "")
    assert examined("builtin", writable=lambda _: False)["cache"].ok


def test_a_folder_that_is_not_there_is_not_to_be_downloaded(tmp_path: Path) -> None:
    checks = examined(str(tmp_path / "nowhere" / "model"))

    assert [name for name, check in checks.items() if not check.ok] == ["model"]
    assert "There is no model" in checks["model"].found
    assert "download" not in (checks["model"].remedy or "")


def test_a_folder_is_examined_as_any_model() -> None:
    checks = examined(str(CHECKPOINTS / "bert-mean"))
    assert all(check.ok for check in checks.values()), checks
    assert "dimensions, float32" in checks["model"].found


def test_a_fallback_is_a_fault_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status says whether the model's own vectors come out of this machine."""
    monkeypatch.setenv("CHROMA_MLX_MODEL_NAME", "qwen3-0.6b-4bit")
    monkeypatch.setenv("CHROMA_MLX_FALLBACK", "mock")

    assert main(["doctor"]) == 1

    printed = capsys.readouterr().out
    said = "BAD  model: qwen3-0.6b-4bit is not whole in the cache: unless it can be had at first use, mock vectors take"
    assert said in printed
    assert "None" not in printed
    assert "router.load" not in printed


def test_a_package_that_is_missing_is_no_reason_to_hide_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MissingPackage("mlx", "mlx")

    monkeypatch.setattr("chroma_mlx.router.embedders.MLXEmbedder.probe", fail)
    model = examined("builtin", fallback="mock")["model"]
    assert (model.ok, model.remedy) == (False, str(MissingPackage("mlx", "mlx")))
    assert "builtin cannot run here: unless it can be had at first use, mock vectors take its place" in model.found


def test_a_mode_without_a_model_needs_no_room_for_one() -> None:
    checks = examined("qwen3-8b-bf16", mode="mock", memory=lambda: GB, free=lambda _: 0, writable=lambda _: False)
    assert all(check.ok for check in checks.values()), checks


@pytest.mark.parametrize(
    ("line", "file", "limit", "expected"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b/memory.max", "1000\n", 1000),
        ("0::/a/b", "sys/fs/cgroup/a/memory.max", "2000\n", 2000),
        ("0::/of/the/host", "sys/fs/cgroup/memory.max", "3000\n", 3000),
        ("4:cpu,memory:/a", "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000\n", 4000),
        ("0::/a", "sys/fs/cgroup/a/memory.max", "max\n", None),
        ("4:memory:/a", "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("4:cpu:/a", "sys/fs/cgroup/a/memory.max", "5000\n", None),
    ],
)
def test_a_limit_of_a_control_group_is_what_may_be_used(
    tmp_path: Path, line: str, file: str, limit: str, expected: int | None
) -> None:
    for name, content in {"proc/self/cgroup": f"{line}\n", file: limit}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="ascii")
    installed = usable_memory(tmp_path / "nothing")

    assert usable_memory(tmp_path) == (installed if expected is None else expected)


def test_a_mac_without_sysctl_has_an_unknown_chip() -> None:
    assert chip("darwin", ["/nowhere/sysctl"]) == "unknown chip"
    assert chip("darwin", ["echo", "Apple M4"]) == "Apple M4"


def test_a_mode_without_a_model_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    assert {check.name: check for check in examine()}["model"].found == "mode mock uses none"


def test_a_vector_cache_that_is_another_file_is_bad(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    check = examined("builtin", embedding_cache=tmp_path / "notes.txt")["vector cache"]

    assert not check.ok
    assert "which is no vector cache: it is no database of SQLite" in check.found
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_vector_cache_that_cannot_be_made_is_bad_and_one_that_can_is_not_made(tmp_path: Path) -> None:
    file = tmp_path / "vectors.sqlite"
    assert examined("builtin", embedding_cache=file)["vector cache"].found == f"{file} is made at first use"
    assert not file.exists()
    assert not examined("builtin", embedding_cache=file, writable=lambda _: False)["vector cache"].ok
    assert "vector cache" not in examined("builtin")

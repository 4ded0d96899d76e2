"""`doctor` says what is there, what is wrong, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chroma_mlx.cli import main
from chroma_mlx.diagnosis.doctor import examine


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


def test_a_model_too_large_for_the_memory_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODEL_NAME", "qwen3-8b-bf16")
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 10**6)

    checks = {check.name: check for check in examine()}

    assert not checks["memory"].ok
    assert "4.1 GB in all; qwen3-8b-bf16 needs about" in checks["memory"].found


def test_a_mode_without_a_model_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    assert {check.name: check for check in examine()}["model"].found == "mode mock uses none"

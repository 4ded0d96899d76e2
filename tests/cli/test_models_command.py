"""`chroma-mlx models` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_cache import put_into_cache
from hub_client import client_of
from hub_server import HubServer
from small import write_checkpoint

from chroma_mlx.checkpoint.cache import list_cached
from chroma_mlx.cli import main
from chroma_mlx.models.known import KNOWN_MODELS, KnownModel, find_known, register_model

QWEN = "qwen3-0.6b-4bit"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CHROMA_MLX_CACHE_DIR", str(tmp_path / "hub"))
    repo_id = KNOWN_MODELS[QWEN].repo_id
    assert repo_id is not None
    put_into_cache(tmp_path / "hub", repo_id, write_checkpoint(tmp_path / "checkpoint"))
    return tmp_path / "hub"


def test_list_shows_every_known_model_and_what_is_cached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(lines) == set(KNOWN_MODELS)
    assert "inside the package" in lines["builtin"]
    assert " MB, 20" in lines[QWEN]
    assert lines["qwen3-8b-4bit"].endswith("no")

    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows[QWEN]["cached"], rows["qwen3-8b-4bit"]["cached"]) == (True, False)


def test_path_prints_the_folder_and_verify_the_files(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "path", QWEN]) == 0
    assert Path(capsys.readouterr().out.strip()).is_relative_to(cache)
    assert main(["models", "verify", QWEN]) == 0
    assert "3 files are what the Hub has: config.json" in capsys.readouterr().out
    assert main(["models", "path", "qwen3-8b-4bit"]) == 1
    said = capsys.readouterr().err
    assert "whole in the cache, and this fetches nothing: `chroma-mlx models download qwen3-8b-4bit`" in said
    assert "auto_download" not in said


def test_verify_fails_for_files_of_which_no_hash_is_known(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (note,) = cache.glob("models--*/chroma-mlx.*.json")
    content = json.loads(note.read_text(encoding="utf-8"))
    for entry in content["files"].values():
        entry["sha256"] = entry["sha1"] = None
    note.write_text(json.dumps(content), encoding="utf-8")
    (config,) = cache.glob("models--*/snapshots/*/config.json")
    text = config.read_text(encoding="utf-8")
    config.unlink()
    config.write_text(text, encoding="utf-8")  # a file, not a link to one with a hash for its name

    assert main(["models", "verify", QWEN]) == 1
    output = capsys.readouterr().out
    assert "2 files are what the Hub has: model.safetensors, tokenizer.json" in output
    assert "not checkable, since their hashes are not known here: config.json" in output


def test_list_shows_what_was_fetched_here_and_is_not_in_the_table(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_into_cache(cache, "someone/ours", tmp_path / "checkpoint")
    put_into_cache(cache, "someone/theirs", tmp_path / "checkpoint", ours=False)
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(KNOWN_MODELS) + 1
    assert lines[-1].startswith("someone/ours ")
    assert "not in the table" in lines[-1]

    assert main(["models", "list", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[-1]
    assert (row["name"], row["cached"], row["dimension"]) == ("someone/ours", True, None)


@pytest.mark.parametrize("action", ["path", "download"])
@pytest.mark.parametrize("name", ["", " ", "no-checkpoint"])
def test_neither_an_empty_name_nor_a_folder_without_a_checkpoint_is_a_model(
    action: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no-checkpoint").mkdir()
    assert main(["models", action, name]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("is not a checkpoint: it has no config.json" if name.strip() else "model_name is '") in printed.err


def test_verify_says_of_the_model_inside_the_package_what_tests_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", "builtin"]) == 1
    assert "`chroma-mlx verify builtin` tests its vectors" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["nan", "-1", "-inf"])
def test_prune_to_what_is_no_size_removes_nothing(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "prune", f"--max-gb={size}", "--yes"]) == 1
    assert "GB, which is no size. Pass 0 or more" in capsys.readouterr().err
    assert main(["models", "path", QWEN]) == 0
    assert main(["models", "prune", "--max-gb", "1e400", "--yes"]) == 0
    assert main(["models", "path", QWEN]) == 0


def test_download_keeps_to_the_limit_of_its_configuration(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mc.yaml").write_text("embedding: {max_cache_gb: 0.000001}", encoding="utf-8")
    wanted = KNOWN_MODELS["bge-small-en-v1.5"].repo_id
    assert wanted is not None
    with HubServer.of_folder(wanted, tmp_path / "checkpoint") as server, client_of(server, monkeypatch, tmp_path):
        assert main(["models", "download", wanted, "--config", "mc.yaml"]) == 0
    assert [model.repo_id for model in list_cached(cache)] == [wanted]
    assert Path(capsys.readouterr().out.strip()).is_relative_to(cache)


def test_a_file_for_a_cache_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHROMA_MLX_CACHE_DIR", str(tmp_path / "file"))
    for command in (["list"], ["path", QWEN], ["download", QWEN], ["verify", QWEN], ["remove", QWEN, "--yes"]):
        assert main(["models", *command]) == 1
        assert f"The models' cache {tmp_path / 'file'} is a file" in capsys.readouterr().err
    assert main(["doctor", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert not checks["cache"]["ok"]
    assert "is a file, so no model can be kept there" in checks["cache"]["found"]


@pytest.mark.parametrize(
    ("command", "takes_a_folder"), [("verify", False), ("remove", False), ("download", False), ("path", True)]
)
def test_help_names_a_folder_where_one_is_taken(
    command: str, takes_a_folder: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["models", command, "--help"])
    assert ("folder" in capsys.readouterr().out.partition("options:")[0]) == takes_a_folder
    if command != "download":
        status = main(["models", command, str(tmp_path / "checkpoint")])
        assert (status == 0) == takes_a_folder


def test_prune_leaves_what_another_program_fetched_unless_it_is_named(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo_id = KNOWN_MODELS["qwen3-4b-4bit"].repo_id
    assert repo_id is not None
    put_into_cache(cache, repo_id, tmp_path / "checkpoint", ours=False)
    assert main(["models", "prune", "--max-gb", "0", "--yes"]) == 0
    assert repo_id not in capsys.readouterr().out
    assert main(["models", "prune", "--max-gb", "0", "--yes"]) == 0
    assert "What other programs fetched stays" in capsys.readouterr().out
    assert main(["models", "prune", "--max-gb", "0", "--yes", "--also", "qwen3-4b-4bit"]) == 0
    assert repo_id in capsys.readouterr().out


def test_info_says_what_the_table_and_the_files_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "builtin", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["table"]["dimension"] == info["files"]["dimension"] == 256
    assert info["files"]["quantization"] == "8-bit affine, groups of 64"


@pytest.mark.parametrize("command", [["remove", QWEN], ["prune", "--max-gb", "0"]])
def test_nothing_is_removed_unless_somebody_says_yes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *command]) == 1
    assert "There is nobody to ask: pass --yes" in capsys.readouterr().err
    assert main(["models", "path", QWEN]) == 0

    assert main(["models", *command, "--yes"]) == 0
    assert "GB are free now" in capsys.readouterr().out
    assert main(["models", "path", QWEN]) == 1


def test_a_cache_within_the_limit_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "prune", "--max-gb", "1"]) == 0
    assert "Nothing has to go" in capsys.readouterr().out


def test_a_registered_model_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_mlx.models.known.KNOWN_MODELS", dict(KNOWN_MODELS))
    row = KNOWN_MODELS["bge-small-en-v1.5"]
    values = {name: getattr(row, name) for name in row.__slots__} | {"name": "my-bge", "repo_id": "me/my-bge"}
    register_model(KnownModel(**values))

    found = find_known("me/my-bge")
    assert found is not None
    assert found.name == "my-bge"
    for changed, message in [
        ({"name": "my-bge"}, "There is a model 'my-bge' already"),
        ({"name": "a/b"}, "a short name of .* without a slash"),
        ({"name": "c", "min_dimension": 0}, "min_dimension is 0, which is not allowed"),
    ]:
        with pytest.raises(ValueError, match=message):
            register_model(KnownModel(**{**values, **changed}))

"""A model carried over from a connected machine, as the error tells a user to: its vectors are the same there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from hub_server import HubServer
from small import CHECKPOINTS

from chroma_mlx.checkpoint.hub import by_hand
from chroma_mlx.models.known import KNOWN_MODELS, KnownModel

ROOT: Final = Path(__file__).parent.parent.parent
NAME: Final = "multilingual-e5-small"
REPO: Final = "intfloat/multilingual-e5-small"
OWN_VARIABLES: Final = ("CHROMA_MLX_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_")


def run(command: list[str], home: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command of this package on a machine of its own: an empty home, and no variable of this one."""
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "chroma_mlx", *command],
        cwd=home,
        env={**kept, **own, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def query_vector(home: Path, variables: dict[str, str]) -> Any:
    done = run(["embed", "--query", "--model", NAME, "how do I bake a loaf?"], home, variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_the_error_says_gives_the_same_vectors_on_the_machine_without_a_connection(tmp_path: Path) -> None:
    offline, connected = tmp_path / "offline", tmp_path / "connected"
    refused = run(["embed", "--query", "--model", NAME, "a loaf"], offline, {"HF_HUB_OFFLINE": "1"})
    assert refused.returncode == 1
    told = re.search(r"`(CHROMA_MLX_CACHE_DIR=\S+) chroma-mlx (models download [^`]+)`", refused.stderr)
    assert told, refused.stderr
    assert told[2].endswith(NAME)
    setting, command = dict([told[1].split("=")]), shlex.split(told[2])

    with HubServer.of_folder(REPO, CHECKPOINTS / "bert-mean") as server:
        fetched = run(command, connected, {**setting, "HF_ENDPOINT": server.endpoint})
        assert fetched.returncode == 0, fetched.stderr
    expected = query_vector(connected, {**setting, "HF_HUB_OFFLINE": "1"})
    # Not every medium keeps links.
    shutil.copytree(connected / "models", offline / "carried", symlinks=False)
    found = query_vector(offline, {"CHROMA_MLX_CACHE_DIR": str(offline / "carried"), "HF_HUB_OFFLINE": "1"})

    assert found == expected
    # The table's prompts are part of that: the checkpoint declares none.
    plain = run(["embed", "--query", "--model", str(CHECKPOINTS / "bert-mean"), "how do I bake a loaf?"], offline, {})
    assert json.loads(plain.stdout) != expected


def test_the_cause_is_the_variable_and_not_a_setting_that_nobody_set(tmp_path: Path) -> None:
    refused = run(["embed", "--model", NAME, "a loaf"], tmp_path / "home", {"HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" in refused.stderr
    assert "auto_download" not in refused.stderr


@pytest.mark.parametrize("known", [row for row in KNOWN_MODELS.values() if row.repo_id], ids=lambda row: row.name)
def test_a_known_model_is_fetched_by_its_short_name_and_never_into_a_plain_folder(known: KnownModel) -> None:
    assert known.repo_id is not None
    words = by_hand(known.repo_id)
    assert f"`CHROMA_MLX_CACHE_DIR=models chroma-mlx models download {known.name}`" in words
    assert "--local-dir" not in words


def test_a_plain_folder_is_the_second_way_for_a_model_that_the_table_has_not() -> None:
    words = by_hand("owner/mine")
    assert 0 < words.index("chroma-mlx models download owner/mine`") < words.index("hf download owner/mine --local-dir")


@pytest.mark.parametrize(
    ("revision", "command"),
    [
        (None, "CHROMA_MLX_CACHE_DIR=models chroma-mlx models download me/mine"),
        ("v2", "hf download me/mine --revision v2 --cache-dir models"),
    ],
)
def test_a_registered_model_is_fetched_by_what_another_machine_knows(
    monkeypatch: pytest.MonkeyPatch, revision: str | None, command: str
) -> None:
    row = KNOWN_MODELS["bge-small-en-v1.5"]
    values = {name: getattr(row, name) for name in row.__slots__} | {"name": "mine", "repo_id": "me/mine"}
    monkeypatch.setitem(KNOWN_MODELS, "mine", KnownModel(**{**values, "revision": revision}))

    words = by_hand("me/mine")
    assert f"`{command}`" in words
    assert "--local-dir" not in words

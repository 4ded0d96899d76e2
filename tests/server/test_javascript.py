"""Chroma's JavaScript OpenAI function, and OpenAI's client in it, get what Python gets: see tests/javascript."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from served import Served
from servers import chroma_run

from chroma_mlx import MLXEmbeddingFunction

FOLDER = Path(__file__).parents[1] / "javascript"
PACKAGES = FOLDER / "node_modules"
PAGE = (FOLDER.parents[1] / "docs/server.md").read_text(encoding="utf-8")
TEXTS = ["the moon orbits the earth", "vega is a star", "日本語 and an emoji 🌙"]

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(not PACKAGES.is_dir(), reason="the packages are not installed: npm install in tests/javascript"),
]


def run_node(folder: Path, script: str, *arguments: str) -> str:
    """What a script prints that finds the packages."""
    (folder / "node_modules").symlink_to(PACKAGES, target_is_directory=True)
    (folder / "script.mjs").write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["node", "script.mjs", *arguments], capture_output=True, encoding="utf-8", timeout=120, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_javascript_gets_the_vectors_that_python_gets(served: Served, tmp_path: Path) -> None:
    script = (FOLDER / "embed.mjs").read_text(encoding="utf-8")
    found = json.loads(run_node(tmp_path, script, f"{served.url}/v1", *TEXTS))
    function, short = MLXEmbeddingFunction("builtin"), MLXEmbeddingFunction("builtin", dimension=64)
    np.testing.assert_allclose(found["documents"], function.encode(TEXTS), atol=2e-6)
    np.testing.assert_allclose(found["queries"], function.encode(TEXTS, "query"), atol=2e-6)
    np.testing.assert_allclose(found["short"], short.encode(TEXTS), atol=2e-6)
    assert (found["models"], found["model"]) == (["builtin"], "builtin")
    assert found["refused"] == {"status": 404, "code": "model_not_found", "param": "model"}


def test_the_snippet_of_the_page_runs_and_prints_what_it_shows(served: Served, tmp_path: Path) -> None:
    [(code, shown)] = re.findall(r"```javascript\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "chroma").mkdir()
    with chroma_run(tmp_path / "chroma") as port:
        for stated, here in (
            ("http://127.0.0.1:8200", served.url),
            ("ChromaClient()", f"ChromaClient({{ port: {port} }})"),
        ):
            assert stated in code
            code = code.replace(stated, here)
        assert run_node(tmp_path, code) == shown

"""The commands of docs/collections.md print what the page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/collections.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_print_what_it_shows(
    command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "embedding-atlas"
    tool.write_text("#!/bin/sh\necho --vector --neighbors --text --umap-metric --host --port\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail(f"opened {address}, where no tool listens"))
    [made] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", made], check=True)
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    shown = [part.partition("\n") for block in blocks for part in block.split("$ ")[1:]]
    assert len(shown) == 6
    for line, _, expected in shown:
        name, *arguments = shlex.split(line)
        assert name == "chroma-mlx"
        assert command(*arguments) == expected, line

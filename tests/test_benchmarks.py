"""The benchmark runs: in small, from the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"


def figures(tmp_path: Path, *options: str) -> dict[str, dict[str, object]]:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(RUN), "--quick", "--json", str(file), *options]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    result: dict[str, dict[str, object]] = json.loads(file.read_text())
    return result


def test_this_project_is_measured_and_counted(tmp_path: Path) -> None:
    found = figures(
        tmp_path,
        *("--only", "peers", "--models", "builtin", "--workloads", "mix", "query", "--peers", "this project"),
    )
    peers = found["peers"]["builtin"]["peers"]  # type: ignore[index]
    mix, query = peers["this project"]["mix"], peers["this project"]["query"]
    assert mix["useful_of_computed"] == 1.0
    assert 0.9 < mix["useful_of_places"] <= 1.0
    assert 0.0 < mix["of_limit"] < mix["of_limit_with_attention"] < 1.5
    assert mix["texts_per_s"] > 0
    assert query["p50_ms"] > 0


def test_a_section_by_itself(tmp_path: Path) -> None:
    found: dict[str, float] = figures(tmp_path, "--only", "ingest")["ingest"]  # type: ignore[assignment]
    assert 0.3 < found["ratio"] < 3.0
    assert 0.0 < found["write_s"] < found["upsert_s"]

"""The benchmark runs: in small, from the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"


def figures(tmp_path: Path, *options: str) -> dict[str, dict[str, object]]:
    file = tmp_path / "figures.json"
    command = [sys.executable, str(RUN), "--quick", "--json", str(file), *options]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    result: dict[str, dict[str, object]] = json.loads(file.read_text())
    return result


@pytest.mark.parametrize(
    ("script", "options", "why"),
    [
        (
            "run",
            ["--only", "router", "--json", "none/figures.json"],
            "'none/figures.json' is in no folder that is there",
        ),
        ("run", ["--only", "router", "--json", "."], "'.' is a folder"),
        ("run", ["--only", "peers", "--rounds", "0"], "0 is less than 1"),
        ("ingest_files", ["--json", "none/figures.json"], "'none/figures.json' is in no folder that is there"),
        ("ingest_files", ["--rounds", "0"], "0 is less than 1"),
        ("ingest_files", ["--documents", "-1"], "-1 is less than 1"),
        ("load", ["--json", "none/figures.json"], "'none/figures.json' is in no folder that is there"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_it_is_measured(
    script: str, options: list[str], why: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(RUN.with_name(f"{script}.py")), *options]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert why in found.stderr


@pytest.mark.parametrize("script", ["run", "chart", "load", "ingest_files", "scaling", "quantize_builtin"])
def test_every_script_says_what_it_takes(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(RUN.with_name(f"{script}.py")), "--help"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"usage: {script}.py")


@pytest.mark.parametrize(
    ("tool", "does", "said"),
    [
        ("sh", "echo that went wrong >&2; exit 1", "that went wrong\n\nsh failed;"),
        ("no-such-tool", "", "no-such-tool is not installed;"),
        ("sh", "exec sleep 60", "sh still waits for answers after 2 s."),
    ],
)
def test_a_tool_that_is_not_there_or_fails_is_named_with_what_it_says(
    tool: str, does: str, said: str, tmp_path: Path
) -> None:
    code = f"import load; load.told_by([{tool!r}, '-c', {does!r}], 2)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(RUN.parent)!r}); {code}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert said in found.stderr


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

"""The tables of docs/scaling.md are what the measured rates come to."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scaling() -> Any:
    spec = importlib.util.spec_from_file_location("scaling_of_benchmarks", ROOT / "benchmarks/scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_the_last_measurement(scaling: Any) -> None:
    found = scaling.read_places(scaling.PAGE.read_text(encoding="utf-8"))
    expected = scaling.tables(json.loads(scaling.RESULTS.read_text()))
    assert found == expected, "run `python benchmarks/scaling.py --write`"


@pytest.mark.parametrize(
    ("passages", "per_s", "machines", "hours"),
    [(3_600, 1.0, 1, 1.0), (7_200_000, 100.0, 10, 2.0), (10**10, 1e6, 1, 25 / 9)],
)
def test_hours_are_passages_by_rate_and_machines(
    scaling: Any, passages: int, per_s: float, machines: int, hours: float
) -> None:
    assert scaling.hours(passages, per_s, machines) == pytest.approx(hours)


def test_bytes_and_servers_can_be_followed_by_hand(scaling: Any) -> None:
    results = {
        "ingest": {"documents": 1_000, "upsert_s": 10.0, "write_s": 1.0},
        "peers": {"0.6b": {"peers": {"this project": {"mix": {"texts_per_s": 2.0, "tokens_per_s": 300.0}}}}},
    }
    found = scaling.tables(results)
    assert "| 10^8 | 102 GB | 410 GB | 819 GB to 1.64 TB | 7 | 20 |" in found["bytes"]
    assert "| 0.6B shape | of 150 tokens in the mean | 2 | 500 |" in found["rates"]
    assert "| built-in | 10^6 | 2.8 h | 17 min | 1.7 min | 0.2 min |" in found["hours"]
    assert "| 0.6B shape | 10^10 | 158 years | 16 years | 579 days | 58 days |" in found["hours"]
    assert found["writes"] == "1,000 records a second"


def test_what_is_written_into_a_page_is_read_from_it(scaling: Any) -> None:
    page = "a\n<!-- one -->\nold\n<!-- end -->\nb <!-- two -->old<!-- end --> c\n"
    written = scaling.with_tables(page, {"one": "| x |\n| y |", "two": "2"})
    assert scaling.read_places(written) == {"one": "| x |\n| y |", "two": "2"}
    assert written.startswith("a\n<!-- one -->\n| x |")
    assert written.endswith("b <!-- two -->2<!-- end --> c\n")

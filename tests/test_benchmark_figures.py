"""The benchmark's own arithmetic, on figures that can be followed by hand."""

from __future__ import annotations

import importlib
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
# Names that other tests and libraries have too: each test gets its own and leaves none.
MODULES = [file.stem for file in BENCHMARKS.glob("*.py")]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the folder."""
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def module(name: str) -> Any:
        return importlib.import_module(name)

    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


def figures(texts_per_s: float, tokens_per_s: float, **others: Any) -> dict[str, Any]:
    return {"estimated": False, "texts_per_s": texts_per_s, "tokens_per_s": tokens_per_s, **others}


@pytest.mark.parametrize(
    ("lengths", "batch", "tokens"),
    [([5], 8, 5), ([3, 5, 1], 2, 11), ([3, 5, 1], 1, 9), ([3, 5, 1], 3, 15), ([], 4, 0)],
)
def test_a_padded_batch_costs_its_longest_text_for_each(load: Any, lengths: list[int], batch: int, tokens: int) -> None:
    assert load("adapters").padded(lengths, batch) == tokens


def test_rates_are_of_useful_tokens_and_of_those_computed(load: Any) -> None:
    work = load("workloads").Workload(name="mix", title="", texts=["a", "b"], lengths=[30, 10])
    found = load("measure").rates(work, 60, 4.0, places=50)
    assert (found["texts_per_s"], found["tokens_per_s"], found["computed_per_s"]) == (0.5, 10.0, 15.0)
    assert (found["useful_of_computed"], found["useful_of_places"]) == (pytest.approx(2 / 3), 0.8)


@pytest.mark.parametrize(("causal", "pairs"), [(True, 6 + 3), (False, 9 + 4)])
def test_attention_counts_the_pairs_of_tokens_that_see_one_another(load: Any, causal: bool, pairs: int) -> None:
    work = load("workloads").Workload(name="mix", title="", texts=["a", "b"], lengths=[3, 2])
    measured = {"seconds": 2.0, "gflops": 5.0, "of_limit": 0.5}
    found = load("measure").with_attention(work, measured, 10**9, causal=causal)
    assert found["of_limit_with_attention"] == pytest.approx(0.5 + pairs / 10)


def test_an_estimate_is_the_rate_over_what_the_workload_would_compute(load: Any) -> None:
    work = load("workloads").Workload(name="mix", title="", texts=["a", "b"], lengths=[30, 10])
    found = load("measure").estimate(work, 60, 3.0)
    assert found["estimated"]
    assert found["seconds"] == 20.0
    assert found["tokens_per_s"] == 2.0


def test_a_peer_that_sorts_is_computed_for_many_texts(load: Any) -> None:
    class Sorts:
        sorts = True

        def planned(self, lengths: list[int]) -> int:
            return 2 * sum(lengths)

    work = load("workloads").Workload(name="mix", title="", texts=["a"], lengths=[1], many=[10, 30])
    assert load("measure").with_many(Sorts(), work, 8.0) == {
        "many_texts": 2,
        "many_useful_of_computed": 0.5,
        "many_tokens_per_s": 4.0,
    }


def test_ratios_are_within_a_round_and_keep_their_spread(load: Any) -> None:
    peers = load("peers")
    rounds = []
    for ours, theirs in ((10.0, 2.0), (20.0, 5.0)):
        row = {peers.OURS: {"mix": figures(ours, ours * 10)}, "peer": {"mix": figures(theirs, 1.0)}}
        row["peer"]["mix"]["many_tokens_per_s"] = 25.0
        row["absent"] = {"reason": "it failed"}
        peers._set_ratios(row)
        rounds.append(row)
    found = peers._combined(rounds)
    assert (found["peer"]["mix"]["ratio_min"], found["peer"]["mix"]["ratio_max"]) == (4.0, 5.0)
    assert found["peer"]["mix"]["ratio"] == 4.5
    assert [row["peer"]["mix"]["many_ratio"] for row in rounds] == [4.0, 8.0]
    assert found["absent"] == {"reason": "it failed"}


def test_the_smallest_cosine_counts_and_nan_is_none_at_all(load: Any, tmp_path: Path) -> None:
    compare, file = load("measure").compare, tmp_path / "vectors.npy"
    ours = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert compare(ours, file, write=True) == 1.0
    assert compare(ours[::-1], file, write=False) == 0.0
    assert compare(np.full((1, 2), np.nan, dtype=np.float32), file, write=False) == -1.0


def test_new_figures_take_their_places_and_the_others_stay(load: Any) -> None:
    peers = load("peers")
    ours, last = peers.OURS, peers.peers_for("cpu")[-1].name
    old = {
        "0.6b": {
            "title": "0.6B",
            "workloads": {"mix": "(b)", "full": "(c)"},
            "peers": {
                ours: {"mix": {"ratio": 1}, "full": {"ratio": 2}},
                "gone": {"mix": {"ratio": 3}},
                last: {"reason": "it failed"},
                "fails": {"mix": {"ratio": 4}},
            },
        },
        "builtin": {"workloads": {}, "peers": {}},
    }
    new = {
        "0.6b": {
            "title": "0.6B",
            "workloads": {"mix": "(b)"},
            "peers": {ours: {"mix": {"ratio": 9}}, last: {"mix": {"ratio": 8}}, "fails": {"reason": "no"}},
        }
    }
    found = load("run").merged(old, new)
    assert list(found) == ["0.6b", "builtin"]
    assert found["0.6b"]["workloads"] == {"mix": "(b)", "full": "(c)"}
    assert found["0.6b"]["peers"] == {
        ours: {"mix": {"ratio": 9}, "full": {"ratio": 2}},
        last: {"mix": {"ratio": 8}},
        "gone": {"mix": {"ratio": 3}},
        "fails": {"reason": "no"},
    }
    assert list(found["0.6b"]["peers"]) == [ours, last, "gone", "fails"]


def test_a_row_that_was_measured_at_another_commit_says_so(load: Any) -> None:
    shared = {"check_cosine": 1.0, "load_s": 1.0, "ratio": 1.0, "ratio_min": 1.0, "ratio_max": 1.0}
    ours = figures(5.0, 50.0, texts=4, tokens=40, gflops=100.0, commit="aaa", **shared)
    rows = {"this project": {"mix": ours}, "new": {"mix": ours}, "old": {"mix": {**ours, "commit": "bbb"}}}
    subject = {"title": "0.6B", "workloads": {"mix": "(b)"}, "rounds": [{}], "peers": rows}
    lines = load("peers_report").describe({"0.6b": subject}).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][1:] == [
        "| this project",
        "| new",
        "| old (at bbb)",
    ]


def test_the_charts_are_svg_with_the_machine_and_every_peer(load: Any, tmp_path: Path) -> None:
    machine = {
        "processor": "A <fast> one",
        "cores": 2,
        "memory_gib": 8,
        "system": "Linux",
        "python": "3",
        "packages": {},
    }
    ours = figures(5.0, 50.0, ratio=1.0)
    slow = figures(0.5, 5.0, ratio=10.0, many_texts=1024, many_ratio=4.0)
    peers = {"this project": {"mix": ours}, "another": {"mix": slow}, "absent": {"reason": "it failed"}}
    counts = [
        {"documents": count, "documents_per_s": 700.0, "resident": [10.0, None, 10.0]} for count in (1000, 10_000)
    ]
    results = {
        "machine": machine,
        "peers": {"builtin": {"title": "built-in", "workloads": {"mix": "(b)"}, "peers": peers}},
        "scale": {"counts": counts},
    }
    for file in load("chart").write_charts(results, tmp_path):
        text = "".join(ElementTree.parse(file).getroot().itertext())
        assert "A <fast> one" in text
        if file.name == "peers-builtin.svg":
            assert "another" in text
            assert "10" in text
            assert "absent" not in text

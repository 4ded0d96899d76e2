"""The Grafana dashboard asks for what the server exposes, and leaves nothing of it out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from chroma_mlx import metrics
from chroma_mlx.server.numbers import RequestNumbers

ROOT = Path(__file__).parent.parent
BOARD: dict[str, Any] = json.loads((ROOT / "docs/grafana-dashboard.json").read_text(encoding="utf-8"))
# The names of series that a metric of each type has behind its own.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
# Prometheus client's own, of the process: on Linux only, so not every machine that tests exposes them.
OF_THE_PROCESS = {
    f"{prefix}{name}"
    for prefix in ("", f"{metrics.PREFIX}_engine_")
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total")
}
NAME = re.compile(r"\b(?:chroma_mlx|process)_\w+")


def exposed() -> dict[str, str]:
    """The type of every metric of ours that /metrics has, by its name without a suffix."""
    page = RequestNumbers().expose().decode()
    families = {family.name: family.type for family in text_string_to_metric_families(page)}
    return {
        name: kind
        for name, kind in families.items()
        if name.startswith(f"{metrics.PREFIX}_")
        and not name.startswith(f"{metrics.PREFIX}_engine_process_")
        and not name.endswith("_created")
    }


def expressions() -> Iterator[tuple[str, str]]:
    """(title of the panel, expression) of every target."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def used() -> set[str]:
    return {name for _, expression in expressions() for name in NAME.findall(expression)}


def series() -> dict[str, str]:
    """The metric of every series' name."""
    return {name + suffix: name for name, kind in exposed().items() for suffix in SUFFIXES[kind]}


def test_every_series_of_the_dashboard_is_exposed() -> None:
    assert used() - set(series()) == OF_THE_PROCESS


def test_every_metric_that_is_exposed_is_on_the_dashboard() -> None:
    names = series()
    assert {names[name] for name in used() if name in names} == set(exposed())


def test_the_variable_asks_for_a_series_that_is_exposed() -> None:
    [job] = [each for each in BOARD["templating"]["list"] if each["name"] == "job"]
    assert set(NAME.findall(job["definition"])) <= set(series())


def test_what_a_program_registers_is_the_servers_page_without_its_requests() -> None:
    registry = CollectorRegistry()
    metrics.register(registry)
    own = {family.name for family in registry.collect()}
    assert set(exposed()) - own == {"chroma_mlx_requests", "chroma_mlx_request_seconds"}
    assert own <= set(exposed())


@pytest.mark.parametrize("describing", [False, True])
def test_a_registry_has_them_once_however_often_they_are_registered(describing: bool) -> None:
    registry = CollectorRegistry(auto_describe=describing)
    for _ in range(2):
        metrics.register(registry)
    names = [family.name for family in registry.collect()]
    assert sorted(names) == sorted(set(names))
    assert "chroma_mlx_batches" in names


def test_they_are_registered_again_where_somebody_cleared_the_registry() -> None:
    registry = CollectorRegistry()
    metrics.register(registry)
    for collector in [*registry._collector_to_names]:
        registry.unregister(collector)
    metrics.register(registry)
    assert "chroma_mlx_batches" in {family.name for family in registry.collect()}


def test_metrics_of_the_same_name_by_somebody_else_are_an_error() -> None:
    registry = CollectorRegistry()
    Gauge("chroma_mlx_queue_texts", "Not ours.", registry=registry)
    for _ in range(2):
        with pytest.raises(ValueError, match="chroma_mlx_queue_texts"):
            metrics.register(registry)


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(chroma_mlx_\w+?)(?:_total)?` \| (\w+) \|", page, re.MULTILINE))
    assert rows == exposed()


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_an_expression_is_whole(title: str, expression: str) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), title
    for name in NAME.findall(expression):
        # A counter and what a histogram counts only grow: how fast is what they say.
        rated = f"rate({name}{{" in expression
        assert rated == name.endswith(("_total", "_bucket", "_sum", "_count")), title
    quantiled = "_bucket" in expression
    assert quantiled == expression.startswith("histogram_quantile("), title
    assert not quantiled or re.search(r"sum by \(le\b", expression), title


def test_the_panels_have_ids_and_places_of_their_own() -> None:
    assert BOARD["schemaVersion"] == 39
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        places = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & taken, panel["title"]
        assert max(x for x, _ in places) < 24
        taken |= places


def test_every_panel_asks_the_data_source_that_is_chosen() -> None:
    assert BOARD["templating"]["list"][0]["type"] == "datasource"
    for panel in BOARD["panels"]:
        for asked in (panel, *panel.get("targets", [])) if panel["type"] != "row" else ():
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

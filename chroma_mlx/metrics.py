"""The engine's numbers for Prometheus (the extra `metrics`): `register()`, or `expose()` for a server's own page."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from .errors import MissingPackage

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

PREFIX: Final = "chroma_mlx"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_registering: Final = threading.Lock()
# Those that have the engine's metrics.
_registries: Final[weakref.WeakSet[CollectorRegistry]] = weakref.WeakSet()


def register(registry: CollectorRegistry | None = None) -> None:
    """Adds the engine's metrics to a registry, the program's default one unless another is given.

    They are read when the registry is, and cost nothing meanwhile. A registry that has them keeps them once. Raises
    MissingPackage without the extra.
    """
    into = _client().REGISTRY if registry is None else registry
    with _registering:
        try:
            into.register(_collector())
        except ValueError:  # it has metrics of these names
            if into not in _registries:
                raise
        _registries.add(into)


def expose() -> bytes:
    """The engine's metrics and those of its process, or processes, in Prometheus' text format, CONTENT_TYPE.

    Raises MissingPackage without the extra.
    """
    client = _client()
    registry = client.CollectorRegistry()
    client.ProcessCollector(registry=registry)
    registry.register(_collector())
    if (process := _engine_process()) is not None:
        client.ProcessCollector(f"{PREFIX}_engine", pid=lambda: process, registry=registry)
    found: bytes = client.generate_latest(registry)
    return found


def _engine_process() -> int | None:
    from .engine.own_process import engine_process

    return engine_process.pid


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise MissingPackage("prometheus-client", "'chroma-mlx[metrics]'") from error
    return prometheus_client


def _collector() -> Any:
    from prometheus_client.registry import Collector

    class EngineCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            return _collect()

        # By their names a registry knows that it has them already; without this not every one asks for names.
        describe = collect

    return EngineCollector()


def _collect() -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    from .engine.encoder import counts
    from .engine.stats import take_held

    numbers, held = counts.numbers(), take_held()

    def counter(name: str, text: str, values: dict[str, float], label: str = "") -> Metric:
        family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=[label] if label else [])
        for key, value in values.items():
            family.add_metric([key] if label else [], value)
        return family

    yield counter("texts", "Texts of calls that were answered.", dict(numbers.texts), "kind")
    yield counter("tokens", "Tokens computed for them.", {"": numbers.tokens})
    yield counter("cached_texts", "Texts whose vector the vector cache had.", {"": numbers.cached})
    yield counter("truncated_texts", "Texts that were cut at the longest that is allowed.", {"": numbers.truncated})
    yield counter("errors", "Calls that were not answered, by the name of the error.", dict(numbers.errors), "error")
    yield counter("batches", "Forward passes.", {"": sum(numbers.pass_texts.counts)})
    for name, text, distribution in (
        ("batch_texts", "Texts of a forward pass.", numbers.pass_texts),
        ("batch_padding_ratio", "Share of attention's places in a forward pass that were padding.", numbers.padding),
        ("wait_seconds", "How long texts waited for their forward pass.", numbers.wait_s),
        ("compute_seconds", "How long a forward pass took.", numbers.pass_s),
        ("call_seconds", "How long whole calls took.", numbers.call_s),
    ):
        histogram = HistogramMetricFamily(f"{PREFIX}_{name}", text)
        histogram.add_metric([], distribution.cumulative(), distribution.sum)
        yield histogram
    for name, text, value in (
        ("queue_texts", "Texts that wait for the model now.", held.queue_texts),
        ("queue_tokens", "Tokens that wait for the model now.", held.queue_tokens),
        ("weights_bytes", "Memory of the weights of the loaded models.", held.weights_bytes),
        ("active_bytes", "Memory that MLX has in use.", held.active_bytes),
        ("kept_bytes", "Memory that MLX keeps for reuse.", held.kept_bytes),
    ):
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
    load = GaugeMetricFamily(f"{PREFIX}_model_load_seconds", "How long a model took to load.", labels=["model"])
    for model, seconds in numbers.load_s.items():
        load.add_metric([model], seconds)
    yield load

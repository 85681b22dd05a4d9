"""Prometheus metrics, one registry per service, no global state."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class Metrics:
    """A service's metrics; names get the prefix `gpumarket_<service>_`."""

    def __init__(self, service: str) -> None:
        self._prefix = f"gpumarket_{service}_"
        self._registry = CollectorRegistry()

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(self._prefix + name, help_text, labels, registry=self._registry)

    def gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(self._prefix + name, help_text, labels, registry=self._registry)

    def histogram(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(self._prefix + name, help_text, labels, registry=self._registry)

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

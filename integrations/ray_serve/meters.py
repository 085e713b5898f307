"""Prometheus metrics of the door, and those of all replicas under it, each with the label `replica`.

Knows prometheus_client and finished outputs. Does not know Ray, which has metrics of its own for queues and replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ..server.asks.events import Finished


class DoorMeters:
    """The metrics of one door."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self._requests = self._counter("trimode_door_requests", "Requests, by path and status.", "path", "status")
        self._served = self._counter("trimode_door_outputs", "Outputs, by replica and attempt.", "replica", "attempt")
        self._lost = self._counter("trimode_door_lost", "Attempts that ended with their replica.", "replica")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def request(self, path: str, status: int) -> None:
        """Counts a request that was answered."""
        self._requests.labels(path, str(status)).inc()

    def served(self, finished: Finished) -> None:
        """Counts a finished output under the replica that its report names."""
        by = finished.report.get("served", {"replica": "", "attempt": 1})
        self._served.labels(by["replica"], str(by["attempt"])).inc()

    def lost(self, replica: str) -> None:
        """Counts an attempt that ended because its replica was lost."""
        self._lost.labels(replica or "unknown").inc()

    def text(self, replicas: Mapping[str, str]) -> bytes:
        """Returns the door's metrics and those of replicas. `replicas`: each one's own, by its name."""
        together = CollectorRegistry()
        together.register(_OfReplicas(replicas))
        return generate_latest(self.registry) + generate_latest(together)


@dataclass(eq=False, slots=True)  # registries keep collectors by identity
class _OfReplicas:
    """Metrics of several processes as one: each family once, its samples labelled."""

    replicas: Mapping[str, str]

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for replica, text in self.replicas.items():
            for family in text_string_to_metric_families(text):
                whole = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
        yield from found.values()

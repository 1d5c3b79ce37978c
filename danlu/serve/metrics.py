"""What the server counts, in the Prometheus text format at /metrics.

Counters and histograms are moved as requests pass; gauges (running, waiting, cache use) are read from the engines at
the moment of the scrape, so they cannot drift. Each app has its own registry: two servers in one process do not mix.
No text of any request is in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from danlu.serve.generation import ServedModel

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

GAUGES: dict[str, tuple[str, Callable[[ServedModel], float]]] = {
    "danlu_requests_running": ("Choices that the engine is working on", lambda served: served.running),
    "danlu_requests_waiting": ("Choices that wait for the engine", lambda served: served.waiting),
    "danlu_kv_cache_used_ratio": ("Share of the KV cache in use", lambda served: served.kv_used),
    "danlu_prefix_cache_hit_ratio": ("Share of prompt tokens found in the cache", lambda served: served.prefix_hit),
    "danlu_tokens_per_second": ("Tokens generated a second, over the last seconds", lambda served: served.speed),
}


class Metrics:
    """The counters of one app."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(list(models)))
        self.requests = Counter(
            "danlu_requests",
            "Finished requests; outcome is stop, length, cancelled, refused or failed",
            ["model", "endpoint", "outcome"],
            registry=self.registry,
        )
        self.overloaded = Counter(
            "danlu_overloaded",
            "Requests refused with 503 because the server was full; reason is queue or memory",
            ["model", "reason"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter("danlu_prompt_tokens", "Prompt tokens", ["model"], registry=self.registry)
        self.generated_tokens = Counter("danlu_generated_tokens", "Generated tokens", ["model"], registry=self.registry)
        self.first_token = Histogram(
            "danlu_time_to_first_token_seconds",
            "From the request to its first token",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.between_tokens = Histogram(
            "danlu_time_per_output_token_seconds",
            "Mean time between the tokens of a choice, one observation a request",
            ["model"],
            buckets=TOKEN_SECONDS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "danlu_request_seconds",
            "From the request to its end",
            ["model", "endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Gauges:
    """A collector that asks the models when it is asked."""

    def __init__(self, models: list[ServedModel]) -> None:
        self.models = models

    def collect(self) -> Iterator[Metric]:
        for name, (help_text, read) in GAUGES.items():
            family = GaugeMetricFamily(name, help_text, labels=["model"])
            for served in self.models:
                family.add_metric([served.name], read(served))
            yield family

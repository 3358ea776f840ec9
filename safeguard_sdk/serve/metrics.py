"""What a service counts, as Prometheus reads it. Nothing of an image is in it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Of one service, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("safeguard_requests", "Requests answered.", ["route", "status"],
                                registry=self.registry)
        self.seconds = Histogram("safeguard_request_seconds", "From a request's first byte to its answer's last.",
                                 ["route"], buckets=SECONDS, registry=self.registry)
        self.verdicts = Counter("safeguard_verdicts", "Images judged.", ["policy", "label"], registry=self.registry)
        self.failures = Counter("safeguard_failures", "Requests without a verdict.", ["kind"], registry=self.registry)
        self.stages = Histogram("safeguard_stage_seconds", "Of an image, in each stage.", ["stage"], buckets=SECONDS,
                                registry=self.registry)
        self.batches = Histogram("safeguard_batch_images", "Images that the engine judged at a time.", buckets=IMAGES,
                                 registry=self.registry)
        self.engine_seconds = Counter("safeguard_engine_seconds", "That the engine was busy.", registry=self.registry)
        self.reloads = Counter("safeguard_policy_reloads", "Reloads of the policies.", ["outcome"],
                               registry=self.registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A value that is asked for when the metrics are read."""
        Gauge(f"safeguard_{name}", text, registry=self.registry).set_function(value)

    def saw_batch(self, images: int, seconds: float) -> None:
        self.batches.observe(images)
        self.engine_seconds.inc(seconds)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

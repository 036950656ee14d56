"""What the server counts, in the text form of Prometheus. Judges nothing.

Everything is counted from the start of the server; rates and quantiles are for whoever reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Upper edges in seconds; an answer takes 0.1 s for a command on a GPU and minutes for a lecture on a CPU.
_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)


@dataclass(frozen=True)
class Measures:
    """The counters of one server."""

    registry: CollectorRegistry
    requests: Counter
    """By endpoint and outcome: ok, the `code` of a refusal, or left."""
    latency_s: Histogram
    """By endpoint, from the head of a request to the end of its answer; answered ones only."""
    first_text_s: Histogram
    """By endpoint, from the head of a streamed request to the first event."""
    audio_s: Counter
    tokens: Counter
    steps: Counter
    rows: Histogram
    waiting: Gauge
    open_requests: Gauge


def new_measures() -> Measures:
    """All at zero."""
    registry = CollectorRegistry()
    return Measures(
        registry,
        Counter(
            "thaitool_requests",
            "Requests to /v1, by endpoint and outcome.",
            ("endpoint", "outcome"),
            registry=registry,
        ),
        Histogram(
            "thaitool_latency_seconds",
            "From the head of a request to the end of its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        ),
        Histogram(
            "thaitool_first_text_seconds",
            "From the head of a streamed request to the first event.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        ),
        Counter("thaitool_audio_seconds", "Audio that was answered about.", registry=registry),
        Counter("thaitool_tokens", "Tokens of answers.", registry=registry),
        Counter("thaitool_steps", "Steps of decoding, one token for each row.", registry=registry),
        Histogram(
            "thaitool_batch_rows",
            "Clips that a step of decoding advanced together.",
            buckets=_ROWS,
            registry=registry,
        ),
        Gauge("thaitool_waiting_clips", "Clips that wait for a place.", registry=registry),
        Gauge("thaitool_open_requests", "Requests to /v1 in progress.", registry=registry),
    )


def exposition(measures: Measures) -> bytes:
    """The text that Prometheus reads (format 0.0.4)."""
    return generate_latest(measures.registry)

"""What Prometheus is told of a model server. Labels are paths and numbers of ours, never what a client wrote."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    def __init__(self, *, task_type: str, version: int, run_id: str, accepted: bool) -> None:
        self._registry = CollectorRegistry()
        model = Gauge(
            "tagwarden_serve_model_info", "The model that answers",
            ["task_type", "version", "run_id", "accepted"], registry=self._registry,
        )  # fmt: skip
        model.labels(task_type, str(version), run_id, str(accepted).lower()).set(1)
        self.requests = Counter(
            "tagwarden_serve_requests", "Requests answered", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "tagwarden_serve_request_seconds", "From the request's first byte to the answer's last", ["path"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.batches = Histogram(
            "tagwarden_serve_batch_size", "Inputs that the model read together", buckets=SIZES, registry=self._registry
        )
        self.waiting = Gauge("tagwarden_serve_waiting", "Inputs that wait for the model", registry=self._registry)
        self.tokens = Counter("tagwarden_serve_tokens", "Tokens read and said", ["kind"], registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)

"""Every Prometheus series of the service, named once; one registry per application, none global."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TOKENS = tuple(2**power for power in range(14))  # 1 … 8192
ITEMS = tuple(2**power for power in range(11))  # 1 … 1024
RATIOS = tuple(tenth / 10 for tenth in range(10))


class Metrics:
    """The series, as attributes. Labels are small closed sets; never a text, a key or an id."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        self.http_requests = self._counter(
            "http_requests", "Requests answered.", "route", "method", "code"
        )
        self.http_request_duration_seconds = self._histogram(
            "http_request_duration_seconds",
            "From the first byte in to the last out.",
            SECONDS,
            "route",
        )
        self.inflight_requests = self._gauge("inflight_requests", "Requests in work.", "route")
        self.rejected_requests = self._counter(
            "rejected_requests", "Requests refused before any work was done.", "reason"
        )
        self.stage_duration_seconds = self._histogram(
            "stage_duration_seconds",
            "Time in each stage: tokenize, queue, infer, search, hydrate, encode.",
            SECONDS,
            "stage",
        )
        self.queue_tokens = self._gauge("queue_tokens", "Tokens waiting for the encoder.", "lane")
        self.queue_items = self._gauge("queue_items", "Texts waiting for the encoder.", "lane")
        self.queue_oldest_age_seconds = self._gauge(
            "queue_oldest_age_seconds", "Age of the text that waits longest.", "lane"
        )
        self.batch_items = self._histogram("batch_items", "Texts in a batch.", ITEMS, "lane")
        self.batch_tokens = self._histogram(
            "batch_tokens", "Padded tokens in a batch.", TOKENS, "lane"
        )
        self.batch_padding_ratio = self._histogram(
            "batch_padding_ratio", "Share of a batch that is padding.", RATIOS, "lane"
        )
        self.texts = self._counter("texts", "Texts embedded.", "lane")
        self.tokens = self._counter("tokens", "Tokens embedded, without padding.", "lane")
        self.truncated_texts = self._counter("truncated_texts", "Texts whose end was cut.", "lane")
        self.shared_texts = self._counter(
            "shared_texts", "Texts answered by an identical text in flight.", "lane"
        )
        self.skipped_texts = self._counter(
            "skipped_texts", "Texts dropped unembedded: client left, or deadline passed.", "reason"
        )
        self.nonfinite_vectors = self._counter(
            "nonfinite_vectors", "Vectors refused because a component was not finite."
        )
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How late the event loop wakes a sleeping task.", SECONDS
        )
        self.model_info = self._gauge(
            "model_info",
            "1 for every loaded bundle.",
            "model",
            "version",
            "space",
            "precision",
            "provider",
            "state",
        )
        self.model_load_duration_seconds = self._histogram(
            "model_load_duration_seconds", "Opening and warming a bundle.", SECONDS
        )
        self.active_epoch = self._gauge(
            "active_epoch", "Epoch of the route; it grows at every cut-over."
        )
        self.cut_overs = self._counter("cut_overs", "Changes of the route, forwards and back.")
        self.migrations = self._counter("migrations", "Migrations that ended.", "outcome")
        self.gate_reports = self._counter("gate_reports", "Reports of the gate.", "outcome")
        self.index_lag_passages = self._gauge(
            "index_lag_passages", "Catalog revisions not yet visible to searches."
        )
        self.index_restarts = self._counter("index_restarts", "Restarts of the index host.")
        self.index_rebuilds = self._counter(
            "index_rebuilds", "Indexes rebuilt from the catalog.", "reason"
        )
        self.index_applied_passages = self._counter(
            "index_applied_passages", "Passages applied to the index.", "operation"
        )
        self.index_requests = self._counter(
            "index_requests", "Calls to the vector index.", "operation", "outcome"
        )
        self.index_request_duration_seconds = self._histogram(
            "index_request_duration_seconds", "Calls to the vector index.", SECONDS, "operation"
        )
        self.search_results = self._counter(
            "search_results", "Hits returned, by language.", "query_language", "result_language"
        )
        self.search_empty = self._counter(
            "search_empty", "Searches without a hit.", "query_language"
        )
        self.search_top_score = self._histogram(
            "search_top_score", "Score of the best hit.", RATIOS, "query_language"
        )
        self.documents_written = self._counter(
            "documents_written", "Documents acknowledged.", "operation"
        )
        self._compare()

    def _compare(self) -> None:
        """The series of shadow mode."""
        self.shadow_queries = self._counter(
            "shadow_queries", "Live queries chosen to be answered beside as well.", "outcome"
        )
        self.shadow_overlap = self._histogram(
            "shadow_overlap",
            "Share of the first ten hits that both generations found.",
            RATIOS,
            "query_language",
        )
        self.shadow_rank_correlation = self._histogram(
            "shadow_rank_correlation", "Rank-biased overlap of the first ten hits.", RATIOS
        )
        self.shadow_results = self._counter(
            "shadow_results",
            "First ten hits of the compared queries, from the live generation and beside.",
            "side",
            "result_language",
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="isogloss", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="isogloss", registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, text, labels, namespace="isogloss", registry=self.registry, buckets=buckets
        )

"""One call to an index, counted by its outcome and timed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ServiceError
from service.metrics import Metrics


@contextmanager
def measured(metrics: Metrics, operation: str) -> Iterator[None]:
    """Count and time what happens inside; the outcome is `ok`, an error's code or `cancelled`."""
    begun_s, outcome = time.perf_counter(), "cancelled"
    try:
        yield
        outcome = "ok"
    except ServiceError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "failed"
        raise
    finally:
        took_s = time.perf_counter() - begun_s
        metrics.index_requests.labels(operation, outcome).inc()
        metrics.index_request_duration_seconds.labels(operation).observe(took_s)

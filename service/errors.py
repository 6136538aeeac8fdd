"""The exceptions of the service, each with the stable code that clients see.

ServiceError
├── InvalidInput          the request is wrong; says the value, the limit and the knob
│   ├── TooLarge          a limit on bytes, items, characters or tokens was passed
│   └── UnknownField      a filter or a document names a metadata field that is not declared
├── NotFound              no such collection, document or model
├── Conflict              the request contradicts what is stored
│   ├── EpochMismatch     the route has moved on since the caller looked
│   └── Behind            a generation lacks revisions that the catalog has acknowledged
├── Overloaded            the queue is full; try again after `retry_after_s`
├── DeadlineExceeded      the request's time was up before its work began
├── Unavailable           a dependency does not answer; try again after `retry_after_s`
│   ├── IndexUnavailable  the vector index
│   ├── StorageFull       no space left for the catalog or the index
│   └── NotReady          starting, or draining
├── BundleInvalid         a model bundle breaks the contract; the message says which file and why
├── IndexCorrupt          a shard cannot be opened, or is not what the catalog says
├── ConfigurationError    a setting is unknown, out of bounds or contradicts another
└── EngineFailure         the encoder failed on a batch: a bug, or a broken device
"""

from typing import ClassVar


class ServiceError(Exception):
    """The root: everything that the service raises on purpose."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(ServiceError):
    """The request is wrong. `pointer` is the JSON pointer of the value, where there is one."""

    code = "invalid_input"

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(detail)
        self.pointer = pointer


class TooLarge(InvalidInput):
    """A limit on bytes, items, characters or tokens was passed."""

    code = "too_large"


class UnknownField(InvalidInput):
    """A filter or a document names a metadata field that its collection does not declare."""

    code = "unknown_field"


class NotFound(ServiceError):
    """No such collection, document or model."""

    code = "not_found"


class Conflict(ServiceError):
    """The request contradicts what is stored."""

    code = "conflict"


class EpochMismatch(Conflict):
    """The route is at another epoch than the caller named: somebody else has switched."""

    code = "epoch_mismatch"


class Behind(Conflict):
    """A generation lacks revisions that the catalog has acknowledged, and may not go live yet."""


class Unavailable(ServiceError):
    """A dependency does not answer; the request may be repeated after `retry_after_s` seconds."""

    code = "unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class IndexUnavailable(Unavailable):
    """The vector index does not answer; what it did with the last write is unknown."""

    code = "index_unavailable"


class StorageFull(Unavailable):
    """There is no space left for the catalog or the index; nothing was acknowledged."""

    code = "storage_full"


class NotReady(Unavailable):
    """The service is starting or draining."""

    code = "not_ready"


class Overloaded(Unavailable):
    """The queue is full, and the request was refused whole."""

    code = "overloaded"


class DeadlineExceeded(ServiceError):
    """The request's time was up before its work began; no work was done for it."""

    code = "deadline_exceeded"


class BundleInvalid(ServiceError):
    """A model bundle breaks the contract; the message says which file, and why."""

    code = "bundle_invalid"


class IndexCorrupt(ServiceError):
    """A shard cannot be opened, or does not hold what the catalog says."""

    code = "index_corrupt"


class ConfigurationError(ServiceError):
    """A setting is unknown, out of bounds or contradicts another."""

    code = "configuration_error"


class EngineFailure(ServiceError):
    """The encoder failed on a batch, or produced a vector that is not finite."""

    code = "engine_failure"

"""Structured logs: one JSON object a line, the service's own and those of the libraries alike.

Nothing here writes a text, a vector or a key. An exception is written with its frames, but its
message is cut, because a message may quote the value that it complains about.
"""

import logging
import sys
from collections.abc import MutableMapping
from traceback import TracebackException
from typing import Any, Final, Literal, TextIO, TypeAlias

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, WrappedLogger

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

MESSAGE_CHARACTERS: Final = 200
FRAMES: Final = 30


def configure(level: Level = "info", *, stream: TextIO | None = None) -> None:
    """Set up logging for the process: structlog, and the standard library's root through it."""
    out = stream or sys.stderr
    structlog.configure(
        processors=[*_shared(), structlog.processors.JSONRenderer(serializer=_json)],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_number(level), logging.WARNING if level == "info" else 0))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the gate writes the access line


def logger(stream: TextIO, level: Level = "info") -> FilteringBoundLogger:
    """A logger of its own that writes to `stream`, whatever the process is set up to do."""
    wrapped: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[*_shared(), structlog.processors.JSONRenderer(serializer=_json)],
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
    )
    return wrapped


def _shared() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _exception,
    ]


def _exception(
    _logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Write `exc_info` as the exception's kind, its cut message, and the frames that led to it."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()[1]
    elif isinstance(found, tuple):
        found = found[1]
    if isinstance(found, BaseException):
        trace = TracebackException.from_exception(found, limit=FRAMES)
        event["exception"] = type(found).__name__
        event["message"] = str(found)[:MESSAGE_CHARACTERS]
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in trace.stack]
        if found.__cause__ is not None:
            event["caused_by"] = type(found.__cause__).__name__
    return event


def _json(event: Any, **_: Any) -> str:
    """One line whatever is in it: unknown types as their repr, halves of surrogates escaped."""
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:
        safe = {str(key): _safe(value) for key, value in event.items()}
        return orjson.dumps(safe, default=repr).decode()


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, int | float | bool | None) else repr(value)


def _number(level: Level) -> int:
    return int(getattr(logging, level.upper()))

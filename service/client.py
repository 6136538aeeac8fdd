"""A running service, seen from the command line: its routes as calls, its problems as errors."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Self

import httpx

from service.errors import ServiceError, Unavailable

UPLOAD_DOCUMENTS = 2_000
"""Documents in one bulk request: an interrupted load has lost at most so many."""


class Refused(ServiceError):
    """The service answered with a problem document."""

    code = "refused"


@dataclass(slots=True)
class Upload:
    """How a load went so far: how many documents are stored, and why the others are not."""

    accepted: int = 0
    rejected: list[str] = field(default_factory=list)

    def take(self, event: Mapping[str, Any], batch: Sequence[Mapping[str, Any]]) -> None:
        """Count one line of a bulk answer, whose request held `batch`."""
        kind = event["event"]
        if kind == "rejected":
            document = batch[event["line"] - 1].get("id", "(without id)")
            self.rejected.append(f"{document}: {event['detail']}")
        if kind in {"done", "failed"}:
            self.accepted += event["accepted"]
        if kind == "failed":
            raise Refused(f"{event['detail']} [{event['code']}]; {self.accepted} are stored")


class Client:
    """The service at `url`; `with` closes its connections."""

    def __init__(self, url: str, *, timeout_s: float = 120.0) -> None:
        self._url = url
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return self._json("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._json("POST", path, json=body)

    def ready(self) -> bool:
        """Whether the service answers searches now."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def upload(self, collection: str, documents: Iterable[Mapping[str, Any]]) -> Iterator[Upload]:
        """Send documents; the same `Upload` is yielded after every request, further on.

        Raises:
            Refused: the service stopped storing; what `accepted` counts is stored.
        """
        state = Upload()
        source = iter(documents)
        while batch := list(islice(source, UPLOAD_DOCUMENTS)):
            answer = self._send(
                "POST",
                "/documents/bulk",
                params={"collection": collection, "wait": "stored"},
                content=b"".join(json.dumps(document).encode() + b"\n" for document in batch),
                headers={"content-type": "application/x-ndjson"},
            )
            for line in answer.text.splitlines():
                state.take(json.loads(line), batch)
            yield state

    def _json(self, method: str, path: str, **request: Any) -> Any:
        return self._send(method, path, **request).json()

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise Unavailable(
                f"no service answers at {self._url} ({error}); start one with `isogloss serve`"
            ) from error
        if answer.is_error:
            raise Refused(_detail(answer))
        return answer


def _detail(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return f"{problem['detail']} [{problem['code']}]"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason_phrase}: {answer.text[:200]}"

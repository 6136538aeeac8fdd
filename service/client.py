"""A running service, seen from the command line: its routes as calls, its problems as errors."""

import json
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeAlias

import httpx

from service.errors import ServiceError, Unavailable

Migration: TypeAlias = Mapping[str, Any]
"""A migration as the service writes it: see `GET /migrations/{generation}`."""

UPLOAD_DOCUMENTS = 2_000
"""Documents in one bulk request: an interrupted load has lost at most so many."""


SILENCE_S = 45.0
"""A stream of events says something at least every 15 seconds; after so many it is broken."""
PATIENCE_S = 60.0
"""A service that starts again answers within so many seconds."""

FINISHED = ("retired", "failed", "aborted")
PASSING = (429, 502, 503, 504)
"""What a service that is busy or starting answers, or what stands before it."""


class Refused(ServiceError):
    """The service answered with a problem document, of this HTTP status."""

    code = "refused"

    def __init__(self, detail: str, *, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


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

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 120.0,
        poll_s: float = 1.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._url = url
        self._http = httpx.Client(base_url=url, timeout=timeout_s)
        self._poll_s = poll_s
        self._patience_s = patience_s

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

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        return self._json("POST", path, json=body, headers=headers)

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

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

    def watch(self, generation: int) -> Generator[Migration, None, None]:
        """A migration as it is now and at every change, until it is at rest.

        It comes as events; once their stream has broken off, the service is asked again and again.

        Raises:
            Refused: there is no such migration.
            Unavailable: the service has not answered for `patience_s`.
        """
        if (yield from self._events(generation)):
            return
        while True:
            migration = self._patiently(f"/migrations/{generation}")
            yield migration
            if at_rest(migration):
                return
            time.sleep(self._poll_s)

    def _events(self, generation: int) -> Generator[Migration, None, bool]:
        """What the stream of events says; returns whether it was told to the end."""
        path = f"/migrations/{generation}/events"
        try:
            with self._http.stream("GET", path, timeout=SILENCE_S) as answer:
                if answer.is_error:
                    answer.read()
                    if answer.status_code in PASSING:
                        return False
                    raise Refused(_detail(answer), status=answer.status_code)
                for name, data in _server_sent(answer.iter_bytes()):
                    if name != "migration":
                        return name == "end"
                    yield json.loads(data)
        except httpx.TransportError:
            return False
        return False

    def _patiently(self, path: str) -> Any:
        """Get it, though the service may be starting again just now."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self.get(path)
            except ServiceError as error:
                passing = not isinstance(error, Refused) or error.status in PASSING
                if not passing or time.monotonic() >= until:
                    raise
            time.sleep(self._poll_s)

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
            raise Refused(_detail(answer), status=answer.status_code)
        return answer


def at_rest(migration: Migration) -> bool:
    """Whether nothing will happen to it any more unless somebody asks for it."""
    settled = migration["live"] and migration["soak_until"] is None
    return bool(settled) or migration["state"] in FINISHED


def _server_sent(chunks: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and data of each event. Bytes, because a text's lines may end where an event's do not."""
    name, data, rest = "", b"", b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b": ")
            if field == b"event":
                name = value.decode()
            elif field == b"data":
                data = value
            elif not line.strip() and name:
                yield name, data
                name, data = "", b""


def _detail(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return f"{problem['detail']} [{problem['code']}]"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason_phrase}: {answer.text[:200]}"

"""`POST /documents/bulk`: lines of JSON in, of any number; lines of progress out.

The answer is written while the request is read, by two tasks that never wait for each other:
most clients send everything before they read anything, and would hang on a service that waits
for its progress to be read. So progress is dropped while nobody reads it, and rejected lines are
listed up to a bound; the summary at the end has the exact counts.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from service.errors import InvalidInput, Overloaded, ServiceError
from service.http.context import Here, Surface, note
from service.http.documents import Collection, DocumentBody
from service.http.limits import collection_name, over, sound, step
from service.http.problems import KINDS, Problem, of_service, printable
from service.types import Document, Wait, Written

router = APIRouter(tags=["documents"])

PATH: Final = "/documents/bulk"
CHUNK_DOCUMENTS: Final = 256
CHUNK_CHARACTERS: Final = 1_000_000
LISTED_REJECTIONS: Final = 1000
PAUSES_S: Final = (0.1, 0.3, 1.0, 3.0)
BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the stream, counted from 1; no bytes if it was too long."""

    number: int
    raw: bytes | None
    size: int


@dataclass(slots=True)
class _Chunk:
    """Documents that are stored in one step, with the lines that they came on."""

    documents: list[Document] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    characters: int = 0

    def add(self, document: Document, line: int) -> None:
        self.documents.append(document)
        self.lines.append(line)
        self.ids.add(document.id)
        self.characters += len(document.text)

    @property
    def full(self) -> bool:
        return len(self.documents) >= CHUNK_DOCUMENTS or self.characters >= CHUNK_CHARACTERS


@router.post(
    PATH,
    summary="Put documents, as a stream",
    response_class=StreamingResponse,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"id": "1", "text": "one"}\n{"id": "2", "text": "two"}\n',
                }
            },
        }
    },
    responses={
        200: {
            "description": "Lines of JSON: `progress`, `rejected` with the line's number, and at"
            " the end `done` or `failed`; both have the counts, and `failed` the line to go on"
            " with.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"event":"rejected","line":2,"code":"empty_input","detail":'
                    '"the text is empty","pointer":"/text"}\n{"event":"done","lines":3,'
                    '"accepted":2,"rejected":1,"revision":7,"visible":true}\n',
                }
            },
        }
    },
)
async def bulk(
    request: Request,
    here: Here,
    collection: Collection = "default",
    wait: Annotated[
        Wait, Query(description="Answer when the last are `stored`, or `visible`.")
    ] = "visible",
) -> StreamingResponse:
    """One document a line, as in `POST /documents`; a bad line is reported and left out."""
    name = collection_name(collection, pointer="/query/collection")
    await here.inventory.collection(name)
    load = _Load(here, name, wait)
    note(request, lane="passage", collection=name)
    return StreamingResponse(load.run(request), media_type="application/x-ndjson")


class _Load:
    """One bulk request: what was read and stored so far, and what the client is to be told."""

    def __init__(self, here: Surface, collection: str, wait: Wait) -> None:
        self._here = here
        self._collection = collection
        self._wait = wait
        self._chunk = _Chunk()
        self._told: deque[dict[str, Any]] = deque()
        self._news = asyncio.Event()
        self._lines = 0
        self._accepted = 0
        self._rejected = 0
        self._revision = 0
        self._visible = True
        self._stored_lines = 0
        self._progressed = False

    async def run(self, request: Request) -> AsyncIterator[bytes]:
        """The lines of the answer, while a task of its own reads the request."""
        reading = asyncio.create_task(self._read(request))
        reading.add_done_callback(lambda _: self._news.set())
        try:
            while not reading.done() or self._told:
                await self._news.wait()
                self._news.clear()
                while self._told:
                    yield _written(self._told.popleft())
                if self._progressed and not reading.done():
                    self._progressed = False
                    yield _written({"event": "progress", **self._counts()})
            yield _written(await self._end(reading))
        finally:
            note(request, items=self._accepted, rejected=self._rejected, lines=self._lines)
            reading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reading

    async def _end(self, reading: "asyncio.Task[None]") -> dict[str, Any]:
        try:
            await reading
        except ServiceError as error:
            problem = of_service(error)
        except Exception:  # the status is sent already
            self._here.log.exception("bulk load failed")
            problem = Problem("internal_error", KINDS["internal_error"].title)
        else:
            return {"event": "done", **self._counts(), "visible": self._visible}
        return {
            "event": "failed",
            **self._counts(),
            "next_line": self._stored_lines + 1,
            "code": problem.code,
            "detail": printable(problem.detail),
            "retry_after_s": problem.retry_after_s,
        }

    async def _read(self, request: Request) -> None:
        limits = self._here.limits
        async for line in lines_of(request.stream(), limits.max_line_bytes):
            self._lines = line.number
            document = self._document(line)
            if document is None:
                continue
            if document.id in self._chunk.ids or self._chunk.full:
                await self._store("stored", last_line=line.number - 1)
            self._chunk.add(document, line.number)
        await self._store(self._wait, last_line=self._lines)

    def _document(self, line: Line) -> Document | None:
        limits = self._here.limits
        try:
            if line.raw is None:
                detail = over(line.size, limits.max_line_bytes, "max_line_bytes", "bytes in a line")
                self._reject(line.number, "too_large", detail)
                return None
            return _parsed(line.raw).document(limits, pointer="")
        except InvalidInput as error:
            self._reject(line.number, error.code, error.detail, error.pointer)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            pointer = "".join(step("", part) for part in fault["loc"])
            self._reject(line.number, "validation_error", fault["msg"], pointer)
        return None

    async def _store(self, wait: Wait, *, last_line: int) -> None:
        """Store the chunk; the client is made to wait by not being read."""
        chunk, self._chunk = self._chunk, _Chunk()
        if chunk.documents:
            await self._put(chunk.documents, chunk.lines, wait)
        self._stored_lines = last_line
        self._progressed = True
        self._news.set()

    async def _put(self, documents: Sequence[Document], lines: Sequence[int], wait: Wait) -> None:
        """Store documents; if one of them is refused, halve them until it is alone."""
        try:
            written = await self._patiently(documents, wait)
        except InvalidInput as error:
            if len(documents) == 1:
                pointer = error.pointer.removeprefix("/documents/0")
                self._reject(lines[0], error.code, error.detail, pointer)
                return
            half = len(documents) // 2
            await self._put(documents[:half], lines[:half], wait)
            await self._put(documents[half:], lines[half:], wait)
            return
        self._accepted += written.accepted
        self._revision = max(self._revision, written.revision)
        self._visible = written.visible

    async def _patiently(self, documents: Sequence[Document], wait: Wait) -> Written:
        for pause_s in PAUSES_S:
            with suppress(Overloaded):
                return await self._here.live.put(self._collection, documents, wait)
            await asyncio.sleep(pause_s)
        return await self._here.live.put(self._collection, documents, wait)

    def _reject(self, line: int, code: str, detail: str, pointer: str = "") -> None:
        self._rejected += 1
        if self._rejected <= LISTED_REJECTIONS:
            self._told.append(
                {
                    "event": "rejected",
                    "line": line,
                    "code": code,
                    "detail": printable(detail),
                    "pointer": printable(pointer),
                }
            )
            self._news.set()

    def _counts(self) -> dict[str, int]:
        return {
            "lines": self._lines,
            "accepted": self._accepted,
            "rejected": self._rejected,
            "revision": self._revision,
        }


async def lines_of(stream: AsyncIterator[bytes], max_line_bytes: int) -> AsyncIterator[Line]:
    """The lines of a stream that are not blank; what is too long is measured, and not kept."""
    number, size = 1, 0
    parts: list[bytes] = []
    async for chunk in stream:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            size += len(piece)
            line = _line(number, [*parts, piece], size, max_line_bytes)
            if line is not None:
                yield line
            number, size, parts = number + 1, 0, []
        size += len(rest)
        if size > max_line_bytes:
            parts = []
        elif rest:
            parts.append(rest)
    line = _line(number, parts, size, max_line_bytes)
    if line is not None:
        yield line


def _line(number: int, parts: Sequence[bytes], size: int, limit: int) -> Line | None:
    if size > limit:
        return Line(number, None, size)
    raw = b"".join(parts)
    if number == 1:
        raw = raw.removeprefix(BOM)
    return Line(number, raw, size) if raw.strip() else None


def _parsed(raw: bytes) -> DocumentBody:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedLine(f"not JSON: {error}") from None
    sound(raw, value)
    return DocumentBody.model_validate(value)


class MalformedLine(InvalidInput):
    """A line of a bulk stream is not JSON."""

    code = "malformed_json"


def _written(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event) + b"\n"

"""Every error that leaves the service, as an RFC 9457 problem document with a stable code.

`/v1/*` adds OpenAI's nested `error` object and `/embed` Text Embeddings Inference's pair
`error`, `error_type`, because the clients of those two show nothing else to their users.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.errors import InvalidInput, ServiceError, Unavailable
from service.http.limits import shown, step

MEDIA_TYPE: Final = "application/problem+json"
LISTED_ERRORS: Final = 20
DETAIL_CHARACTERS: Final = 500
INTERNAL: Final = "internal_error"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means to a client: its status, and one sentence for its page."""

    status: int
    title: str


KINDS: Final[Mapping[str, Kind]] = {
    "malformed_json": Kind(400, "The body is not JSON."),
    "empty_input": Kind(400, "There is no text to work on."),
    "token_input_unsupported": Kind(400, "Token ids came where text is wanted."),
    "route_not_found": Kind(404, "There is nothing at this address."),
    "not_found": Kind(404, "No such collection, document, model or migration."),
    "model_not_found": Kind(404, "The model is not the one that serves."),
    "method_not_allowed": Kind(405, "The address does not take this method."),
    "conflict": Kind(409, "The request contradicts what is stored."),
    "epoch_mismatch": Kind(412, "The route is at another epoch than the request expects."),
    "too_large": Kind(413, "A limit on bytes, items or characters was passed."),
    "unsupported_media_type": Kind(415, "The body has the wrong content type."),
    "validation_error": Kind(422, "The request does not have the documented shape."),
    "invalid_input": Kind(422, "A value in the request is wrong."),
    "bundle_refused": Kind(422, "The bundle that the request names breaks the contract."),
    "unknown_field": Kind(422, "The collection does not declare this field."),
    "overloaded": Kind(429, "The queue is full; try again shortly."),
    "bad_request": Kind(400, "The request is wrong."),
    INTERNAL: Kind(500, "The service failed; the log has the request's id."),
    "engine_failure": Kind(500, "The encoder failed on this batch."),
    "bundle_invalid": Kind(500, "A model bundle breaks the contract."),
    "index_corrupt": Kind(500, "An index is damaged; it is rebuilt from the catalog."),
    "configuration_error": Kind(500, "A setting is wrong."),
    "unavailable": Kind(503, "A dependency does not answer; try again shortly."),
    "index_unavailable": Kind(503, "The vector index does not answer; try again shortly."),
    "storage_full": Kind(503, "No space is left; nothing was acknowledged."),
    "not_ready": Kind(503, "The service is starting or stopping; try again shortly."),
    "deadline_exceeded": Kind(504, "The request's time was up before its work began."),
}

TEI_TYPES: Final[Mapping[int, str]] = {429: "Overloaded", 500: "Backend", 503: "Unhealthy"}
BY_STATUS: Final[Mapping[int, str]] = {
    404: "route_not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


class Fault(BaseModel):
    """One thing that is wrong, and where: a JSON pointer into the body, or the parameter's name."""

    pointer: str
    detail: str


class ProblemDocument(BaseModel):
    """The shape of every error, for the schema."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[Fault]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error on its way out: the code decides the status and the title."""

    code: str
    detail: str
    errors: Sequence[tuple[str, str]] = ()
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]

    def document(self, *, path: str, request_id: str) -> dict[str, Any]:
        """The problem document for a request to this path."""
        status = self.kind.status
        on_v1 = path.startswith(("/v1/", "/embeddings"))
        if on_v1 and status == HTTPStatus.UNPROCESSABLE_ENTITY:
            status = (
                HTTPStatus.BAD_REQUEST.value
            )  # what OpenAI's own server answers, and its clients' exceptions expect
        document: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": self.kind.title,
            "status": status,
            "detail": printable(self.detail),
            "instance": printable(path),
            "code": self.code,
            "request_id": request_id,
            "errors": [
                {"pointer": printable(pointer), "detail": printable(detail)}
                for pointer, detail in self.errors[:LISTED_ERRORS]
            ],
        }
        if on_v1:
            document["error"] = self._openai(status)
        elif path == "/embed":
            empty = self.code == "empty_input"
            document["error"] = document["detail"]
            document["error_type"] = "Empty" if empty else TEI_TYPES.get(status, "Validation")
        return document

    def response(self, scope: Scope) -> Response:
        """The problem as a response to the request in `scope`."""
        document = self.document(path=scope["path"], request_id=request_id_of(scope))
        facts = scope.get("isogloss")
        if facts is not None:
            facts["error"] = self.code
        headers = dict(self.headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, self.retry_after_s))
        return Response(orjson.dumps(document), document["status"], headers, MEDIA_TYPE)

    def _openai(self, status: int) -> dict[str, Any]:
        kind = "invalid_request_error"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            kind = "server_error"
        param = self.errors[0][0].split("/")[1:2] if self.errors else []
        return {
            "message": printable(self.detail),
            "type": kind,
            "param": printable(param[0]) if param else None,
            "code": self.code,
        }


def request_id_of(scope: Scope) -> str:
    """The id that the gate gave to the request."""
    facts: Mapping[str, Any] = scope.get("isogloss") or {}
    return str(facts.get("request_id", ""))


def printable(text: str) -> str:
    """Text that JSON can carry, and not too much of it."""
    if len(text) > DETAIL_CHARACTERS:
        text = f"{text[:DETAIL_CHARACTERS]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def of_service(error: ServiceError) -> Problem:
    """What an exception of the service says to a client; of a 500, nothing but the code."""
    code = error.code if error.code in KINDS else INTERNAL
    if KINDS[code].status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return Problem(code, KINDS[code].title)
    if isinstance(error, InvalidInput):
        faults = [(error.pointer, error.detail)] if error.pointer else []
        return Problem(code, error.detail, faults)
    if isinstance(error, Unavailable):
        return Problem(code, error.detail, retry_after_s=error.retry_after_s)
    return Problem(code, error.detail)


def of_validation(error: RequestValidationError) -> Problem:
    """What a request of the wrong shape is told, without echoing it."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1]
        return Problem("malformed_json", f"not JSON: {first['ctx']['error']} at character {where}")
    if isinstance(error.body, bytes):
        return Problem("unsupported_media_type", "send the header Content-Type: application/json")
    if error.body is None and first["loc"] == ("body",):
        return Problem("validation_error", "a JSON body is required", [("", "missing")])
    faults = list(_faults(error))
    above = {pointer[:end] for pointer, _ in faults for end in _ends(pointer)}
    deeper = [(pointer, detail) for pointer, detail in faults if pointer not in above]
    pointer, detail = deeper[0]
    more = f", and {len(deeper) - 1} more" if len(deeper) > 1 else ""
    return Problem("validation_error", f"{pointer or 'the body'}: {detail}{more}", deeper)


def of_http(error: HTTPException) -> Problem:
    """Starlette's own errors: no such route, a method that it does not take."""
    ours = error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
    code = BY_STATUS.get(error.status_code, INTERNAL if ours else "bad_request")
    detail = KINDS[code].title if code != "bad_request" else str(error.detail)
    return Problem(code, detail, headers=dict(error.headers or {}))


async def on_service_error(request: Request, error: ServiceError) -> Response:
    """FastAPI's handler of `ServiceError`; the cause of a 500 is logged."""
    problem = of_service(error)
    if problem.kind.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        request.app.state.surface.failed(request.scope, error)
    return problem.response(request.scope)


async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
    """FastAPI's handler of requests of the wrong shape."""
    return of_validation(error).response(request.scope)


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """FastAPI's handler of its own errors."""
    return of_http(error).response(request.scope)


def _ends(pointer: str) -> Iterator[int]:
    """Where the pointers above this one end."""
    return (at for at, character in enumerate(pointer) if character == "/")


def _faults(error: RequestValidationError) -> Iterator[tuple[str, str]]:
    for fault in error.errors()[:1000]:
        source, *path = fault["loc"]
        message = str(fault["msg"]).removeprefix("Value error, ")
        if source == "body":
            pointer = _pointer(path, error.body)
            missing = fault["type"] == "missing"
            yield (step(pointer, path[-1]) if missing else pointer), message
        else:
            yield f"/{source}/{'/'.join(map(str, path))}", f"{message}: {shown(fault['input'])}"


def _pointer(path: Sequence[str | int], body: Any) -> str:
    """The pointer of a fault; what is not in the body (the branch of a union) is left out."""
    pointer = ""
    for key in path:
        inside = isinstance(body, dict) and key in body
        if inside or (isinstance(body, list) and isinstance(key, int) and key < len(body)):
            body = body[key]
            pointer = step(pointer, key)
    return pointer

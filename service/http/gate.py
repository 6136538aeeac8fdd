"""The gate that every request passes: its id, its body's size, its client's patience, its record.

Why pure ASGI: it must see the body while it streams, and cancel the handler when the client has
left, so that work nobody waits for never reaches the encoder.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.context import Surface
from service.http.limits import over
from service.http.problems import INTERNAL, KINDS, Problem

UNMATCHED: Final = "unmatched"
CLIENT_GONE: Final = 499
DRAIN_S: Final = 2.0
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET: Final = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})
REASONS: Final = {"not_ready": "not_ready", "too_large": "too_large"}
"""What is counted here; a full queue and a passed deadline are counted where they happen."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Templates:
    """From a path to its route's template, because a metric labelled with raw paths never ends."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        named = [route for route in routes if isinstance(route, Route)]
        self._fixed = {route.path for route in named if "{" not in route.path}
        self._patterns = [(route.path_regex, route.path) for route in named if "{" in route.path]

    def of(self, path: str) -> str:
        if path in self._fixed:
            return path
        for pattern, template in self._patterns:
            if pattern.match(path):
                return template
        return UNMATCHED


class Gate:
    """ASGI middleware around the whole application; `streams` are routes without a body limit."""

    def __init__(
        self, app: ASGIApp, *, surface: Surface, templates: Templates, streams: Sequence[str]
    ) -> None:
        self._app = app
        self._surface = surface
        self._templates = templates
        self._streams = frozenset(streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self._templates.of(scope["path"])
        # The gate watches for the client itself. Below 2.4 a streaming response would do so as well,
        # and eat the body of a request that is still being read.
        scope["asgi"] = {**scope["asgi"], "spec_version": "2.4"}
        scope["isogloss"] = {"request_id": _request_id(Headers(scope=scope)), "route": route}
        limit = None if route in self._streams else self._surface.limits.max_body_bytes
        exchange = _Exchange(scope, receive, send, surface=self._surface, limit=limit)
        metrics = self._surface.metrics
        inflight = metrics.inflight_requests.labels(route)
        inflight.inc()
        try:
            await exchange.run(self._app)
        finally:
            inflight.dec()
            self._record(exchange, route)

    def _record(self, exchange: "_Exchange", route: str) -> None:
        metrics, facts = self._surface.metrics, exchange.facts
        seconds = perf_counter() - exchange.began
        method = exchange.scope["method"] if exchange.scope["method"] in METHODS else "other"
        code = exchange.status or CLIENT_GONE
        metrics.http_requests.labels(route, method, str(code)).inc()
        metrics.http_request_duration_seconds.labels(route).observe(seconds)
        reason = "body_too_large" if exchange.refusal else REASONS.get(facts.get("error", ""))
        if reason:
            metrics.rejected_requests.labels(reason).inc()
        log = self._surface.log
        timings = {
            f"{stage}_ms": round(1000 * spent, 2)
            for stage, spent in facts.pop("timings", {}).items()
        }
        line = {**facts, **timings, "method": method, "code": code, "ms": round(1000 * seconds, 2)}
        if exchange.gone:
            line["client_left"] = True
        if route in QUIET and code < HTTPStatus.INTERNAL_SERVER_ERROR:
            log.debug("request", **line)
        else:
            log.info("request", **line)


class _Exchange:
    """One request and its response: wraps `receive` and `send`, and watches for the client."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, surface: Surface, limit: int | None
    ) -> None:
        headers = Headers(scope=scope)
        self.scope = scope
        self.facts: dict[str, Any] = scope["isogloss"]
        self.began = perf_counter()
        self.status = 0
        self.refusal: Problem | None = None
        self.gone = False
        self._answered = False
        self._receive = receive
        self._send = send
        self._surface = surface
        self._limit = limit
        self._headers = headers
        self._bodyless = headers.get("content-length", "0") == "0" and (
            "transfer-encoding" not in headers
        )
        self._seen = 0
        self._body_ended = anyio.Event()
        self._cancel = anyio.CancelScope()

    async def run(self, app: ASGIApp) -> None:
        declared = self._headers.get("content-length", "0")
        if self._limit is not None and declared.isdecimal() and int(declared) > self._limit:
            self._refuse(int(declared))
        else:
            async with anyio.create_task_group() as group:
                self._cancel = group.cancel_scope
                group.start_soon(self._watch)
                await self._handle(app)
                group.cancel_scope.cancel()
        if self.refusal is not None and not self.status:
            await self._discard_body()
            if not self.gone:
                await self.refusal.response(self.scope)(self.scope, self._receive, self.send)

    async def receive(self) -> Message:
        """The next piece of the body. Who reads on when there is none is cancelled, not answered."""
        if self._body_ended.is_set():
            await anyio.sleep_forever()
        if self._bodyless:
            self._body_ended.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()
            await anyio.sleep_forever()
        self._seen += len(message.get("body", b""))
        if not message.get("more_body", False):
            self._body_ended.set()
        if self._limit is not None and self._seen > self._limit:
            self._refuse(self._seen)
            self._cancel.cancel()
            await anyio.sleep_forever()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.facts["request_id"]
            headers["Server-Timing"] = self._server_timing()
            headers.setdefault("X-Content-Type-Options", "nosniff")
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def _handle(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - the last door: a bug answers 500 and is logged
            self._surface.failed(self.scope, error)
            if not self.status:
                problem = Problem(INTERNAL, KINDS[INTERNAL].title)
                await problem.response(self.scope)(self.scope, self.receive, self.send)

    async def _watch(self) -> None:
        """Cancel the handler as soon as the client hangs up; a body is read by the handler first."""
        if not self._bodyless:
            await self._body_ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if not self._answered:
            self.gone = True
        self._cancel.cancel()

    def _refuse(self, size: int) -> None:
        limit = self._limit or 0
        detail = over(size, limit, "max_body_bytes", "bytes in the body")
        self.refusal = Problem("too_large", detail, headers={"Connection": "close"})

    async def _discard_body(self) -> None:
        """Read on for a moment: a client that is still sending would miss the answer."""
        if self._headers.get("expect", "").lower() == "100-continue":
            return
        with anyio.move_on_after(DRAIN_S):
            while not self._body_ended.is_set():
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self.gone = True
                if not message.get("more_body", False):
                    self._body_ended.set()

    def _server_timing(self) -> str:
        timings: Mapping[str, float] = self.facts.get("timings", {})
        spent = {**timings, "total": perf_counter() - self.began}
        return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in spent.items())


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

"""What every route may reach: the retriever of the running service, the limits, metrics and log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, FastAPI, Request
from starlette.types import Scope
from structlog.typing import FilteringBoundLogger

from service.errors import NotReady
from service.http.limits import Limits, sound
from service.inventory import Inventory
from service.metrics import Metrics
from service.migration import Migrations
from service.retriever import Retriever


@dataclass(frozen=True, slots=True)
class Surface:
    """The service as the routes see it.

    The application sets `app.state.retriever`, `.inventory` and `.migrations` once it is open, and
    `app.state.draining` when it stops: that turns `/readyz` to 503 and ends the streams of events;
    the traffic that still comes is served.
    """

    app: FastAPI
    limits: Limits
    metrics: Metrics
    log: FilteringBoundLogger
    settings: Mapping[str, Any]

    @property
    def started(self) -> bool:
        return getattr(self.app.state, "retriever", None) is not None

    @property
    def draining(self) -> bool:
        return bool(getattr(self.app.state, "draining", False))

    @property
    def live(self) -> Retriever:
        """The retriever, or `NotReady` while the service starts or stops."""
        if not self.started:
            raise NotReady("the service is starting or stopping")
        retriever: Retriever = self.app.state.retriever
        return retriever

    @property
    def inventory(self) -> Inventory:
        """The inventory, or `NotReady` while the service starts or stops."""
        if not self.started:
            raise NotReady("the service is starting or stopping")
        inventory: Inventory = self.app.state.inventory
        return inventory

    @property
    def migrations(self) -> Migrations:
        """The migrations, or `NotReady` while the service starts or stops."""
        if not self.started:
            raise NotReady("the service is starting or stopping")
        migrations: Migrations = self.app.state.migrations
        return migrations

    def failed(self, scope: Scope, error: Exception) -> None:
        """Log what the client is not told: the cause of a 500, under the request's id."""
        facts = scope["isogloss"]
        self.log.error(
            "request failed",
            exc_info=error,
            request_id=facts["request_id"],
            route=facts["route"],
        )


async def _surface(request: Request) -> Surface:  # async, or each request would wait for a thread
    surface: Surface = request.app.state.surface
    return surface


Here: TypeAlias = Annotated[Surface, Depends(_surface)]
"""The type of a route's parameter that receives the surface."""


async def sound_body(request: Request) -> None:
    """Refuse a body with a string that no encoder, catalog or index could hold."""
    raw = await request.body()
    if b"\\u" in raw and "json" in request.headers.get("content-type", ""):
        sound(raw, await request.json())


SOUND = [Depends(sound_body)]
"""The dependency of every router that takes JSON."""


def note(request: Request, **facts: Any) -> None:
    """Add to the request's line in the access log; counts, names and ids, never a text."""
    request.scope["isogloss"].update(facts)


def timed(request: Request, stage: str, seconds: float) -> None:
    """Add a stage to the response's Server-Timing header."""
    request.scope["isogloss"].setdefault("timings", {})[stage] = seconds

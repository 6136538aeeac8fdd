"""Is it alive, has it started, can it serve: `/livez /readyz /startupz /health /info /metrics`."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from service.errors import NotReady
from service.http.context import Here, Surface
from service.types import Check, ModelInfo, Status

router = APIRouter(tags=["health"])

Component = Literal["all", "embed", "search"]
NEEDS: dict[Component, frozenset[str]] = {
    "all": frozenset({"encoder", "catalog", "index"}),
    "embed": frozenset({"encoder"}),
    "search": frozenset({"encoder", "catalog", "index"}),
}


@router.get("/livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """200 as long as the event loop turns, whatever the dependencies do; also while draining."""
    return {"status": "alive"}


@router.get("/startupz", summary="Has it started?")
async def startupz(here: Here) -> dict[str, str]:
    """200 once the bundle is loaded and the catalog is open."""
    if not here.started:
        raise NotReady("the service is starting")
    return {"status": "started"}


@router.get("/readyz", response_class=Response, summary="Can it serve?")
async def readyz(
    here: Here,
    verbose: Annotated[str | None, Query(description="With each check and the index.")] = None,
    component: Annotated[Component, Query(description="Ready for what.")] = "all",
) -> Response:
    """200 if everything that is needed answers; 503 if not, or while the service stops."""
    if here.draining:
        raise NotReady("the service is stopping; what still comes is served")
    status = await here.inventory.status()
    needed = [check for check in status.checks if check.name in NEEDS[component]]
    ready = all(check.ok for check in needed)
    if not ready and verbose is None:
        raise NotReady("; ".join(_said(check) for check in needed if not check.ok))
    content: dict[str, Any] = {"status": "ready" if ready else "not ready"}
    if verbose is not None:
        content |= _verbose(status)
    headers = {} if ready else {"Retry-After": "2"}
    return Response(orjson.dumps(content), 200 if ready else 503, headers, "application/json")


@router.get("/health", response_class=Response, summary="Can it embed?")
async def health(here: Here) -> Response:
    """The check of Text Embeddings Inference's clients: 200 and no body, or 503."""
    if here.draining:
        raise NotReady("the service is stopping; what still comes is served")
    status = await here.inventory.status()
    for check in status.checks:
        if check.name in NEEDS["embed"] and not check.ok:
            raise NotReady(_said(check))
    return Response()


@router.get("/info", summary="What serves, and what a request may hold")
async def info(here: Here) -> dict[str, Any]:
    """Text Embeddings Inference's keys first, then the live generation, limits and settings."""
    status = await here.inventory.status()
    model = await _active(here)
    limits = asdict(here.limits)
    return {
        "model_id": status.bundle,
        "model_sha": status.space,
        "model_dtype": here.settings.get("precision"),
        "model_type": {"embedding": {"pooling": "in_graph"}},
        "max_input_length": model.max_tokens if model else None,
        "max_batch_tokens": here.settings.get("max_batch_tokens"),
        "max_client_batch_size": here.limits.max_items,
        "auto_truncate": True,
        "version": version("isogloss"),
        "service": "isogloss",
        "bundle": status.bundle,
        "space": status.space,
        "dimension": model.dimension if model else None,
        "dimensions": list(model.dimensions) if model else [],
        "languages": list(model.languages) if model else [],
        "generation": status.generation,
        "epoch": status.epoch,
        "index": {"applied": status.applied, "total": status.total},
        "limits": limits,
        "settings": dict(here.settings),
    }


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
async def metrics(here: Here) -> Response:
    """Every series of the service, in Prometheus' text format."""
    return Response(generate_latest(here.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _active(here: Surface) -> ModelInfo | None:
    found = [each for each in await here.inventory.models() if each.state == "active"]
    return found[0] if found else None


def _verbose(status: Status) -> dict[str, Any]:
    return {
        "checks": [asdict(check) for check in status.checks],
        "bundle": status.bundle,
        "space": status.space,
        "generation": status.generation,
        "epoch": status.epoch,
        "index": {"applied": status.applied, "total": status.total},
    }


def _said(check: Check) -> str:
    return f"{check.name}: {check.detail or 'does not answer'}"

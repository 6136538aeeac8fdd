"""Mounts the whole HTTP surface on an application: routes, problem documents, gate and schema."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from structlog.typing import FilteringBoundLogger

from service.errors import ServiceError
from service.http import (
    bulk,
    collections,
    docs,
    documents,
    embed,
    health,
    migrations,
    models,
    openai,
    problems,
    search,
)
from service.http.context import Surface
from service.http.gate import Gate, Templates
from service.http.limits import Limits
from service.metrics import Metrics

ROUTERS = (  # the busiest first: they are asked one after the other
    search.router,
    embed.router,
    openai.router,
    bulk.router,
    documents.router,
    collections.router,
    models.router,
    migrations.router,
    health.router,
    docs.router,
)
TAGS = [
    {"name": "search", "description": "Queries to passages, across languages."},
    {"name": "embed", "description": "Texts to vectors."},
    {"name": "documents", "description": "What can be found."},
    {"name": "collections", "description": "Where documents are kept, and what can be filtered."},
    {"name": "models", "description": "The registry of encoders."},
    {"name": "migrations", "description": "From one encoder to the next, while searches go on."},
    {"name": "openai", "description": "The addresses that the OpenAI client uses."},
    {"name": "health", "description": "For orchestrators and operators."},
]
REPLACED = frozenset({"/docs", "/redoc", "/docs/oauth2-redirect"})


def install(
    app: FastAPI,
    *,
    metrics: Metrics,
    limits: Limits,
    settings: Mapping[str, Any],
    log: FilteringBoundLogger | None = None,
) -> None:
    """Mount everything; the lifespan sets what `Surface` names, and `app.state.draining` at its end.

    `settings` is what `/info` shows, already redacted.
    """
    surface = Surface(
        app=app,
        limits=limits,
        metrics=metrics,
        log=log or structlog.get_logger("isogloss.http"),
        settings=settings,
    )
    app.state.surface = surface
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", "") not in REPLACED
    ]
    error = {
        "default": {
            "description": "A problem document (RFC 9457).",
            "content": {
                problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
            },
        }
    }
    for router in ROUTERS:
        app.include_router(router, responses=error)  # type: ignore[arg-type]
    app.exception_handler(ServiceError)(problems.on_service_error)
    app.exception_handler(RequestValidationError)(problems.on_validation_error)
    app.exception_handler(HTTPException)(problems.on_http_error)
    routes = [route for router in ROUTERS for route in router.routes]
    app.add_middleware(
        Gate, surface=surface, templates=Templates([*app.routes, *routes]), streams=(bulk.PATH,)
    )
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]


def _schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once; it has the shape of problems, which no route returns."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title="Isogloss",
            version=version("isogloss"),
            summary="Cross-lingual retrieval: embed, index and search in any language.",
            routes=app.routes,
            tags=TAGS,
        )
        shapes = schema.setdefault("components", {}).setdefault("schemas", {})
        shape = problems.ProblemDocument.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        shapes |= shape.pop("$defs")
        shapes["ProblemDocument"] = shape
        app.openapi_schema = schema
    return app.openapi_schema

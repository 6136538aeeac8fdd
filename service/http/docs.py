"""`/docs`: Swagger UI from this installation, so that it works without internet; `/problems` beside it."""

from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse
from swagger_ui_bundle import swagger_ui_path

from service.errors import NotFound
from service.http.limits import shown
from service.http.problems import KINDS

router = APIRouter(include_in_schema=False)

FILES: Final = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
# The bundled Swagger UI reads OpenAPI 3.0; ours is 3.1, and nothing in it needs more than 3.0 shows.
PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Isogloss API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
fetch("openapi.json").then(answer => answer.json()).then(spec => {
  spec.openapi = "3.0.3";
  SwaggerUIBundle({spec, dom_id: "#ui", deepLinking: true, tryItOutEnabled: true});
});
</script>
</body>
</html>
"""


@router.get("/")
async def root() -> RedirectResponse:
    return RedirectResponse("docs")


@router.get("/docs")
async def docs() -> HTMLResponse:
    return HTMLResponse(PAGE)


@router.get("/docs/{name}")
async def asset(name: str) -> FileResponse:
    if name not in FILES:
        raise NotFound(f"there is no file {shown(name)} here")
    return FileResponse(swagger_ui_path / name, headers={"Cache-Control": "max-age=86400"})


@router.get("/problems")
async def problems() -> dict[str, Any]:
    """Every code of a problem document."""
    return {code: {"status": kind.status, "title": kind.title} for code, kind in KINDS.items()}


@router.get("/problems/{code}")
async def problem(code: str) -> dict[str, Any]:
    """What a problem document's `type` leads to."""
    if code not in KINDS:
        raise NotFound(f"there is no problem {shown(code)}")
    kind = KINDS[code]
    return {"code": code, "status": kind.status, "title": kind.title}

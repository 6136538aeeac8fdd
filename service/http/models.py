"""`GET /models`: the registry, and the state of each version."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.http.context import Here
from service.types import ModelInfo, ModelState

router = APIRouter(tags=["models"])


class ModelBody(BaseModel):
    """A bundle; of an invalid one, only the reason is known."""

    name: str
    version: str
    state: ModelState
    reason: str = Field(description="Why it is invalid.")
    space: str
    dimension: int
    dimensions: list[int] = Field(description="Lengths that a vector may be cut to.")
    max_tokens: int
    languages: list[str]
    precisions: list[str]
    roles: list[str]
    licence: str


class ModelsBody(BaseModel):
    """The registry."""

    models: list[ModelBody]


@router.get("/models", summary="The registry of models")
async def models(here: Here) -> ModelsBody:
    """Every bundle version: `active` serves, `available` could, `invalid` breaks the contract."""
    return ModelsBody(models=[_shape(each) for each in await here.inventory.models()])


def _shape(model: ModelInfo) -> ModelBody:
    return ModelBody(
        name=model.name,
        version=model.version,
        state=model.state,
        reason=model.reason,
        space=model.space,
        dimension=model.dimension,
        dimensions=list(model.dimensions),
        max_tokens=model.max_tokens,
        languages=list(model.languages),
        precisions=list(model.precisions),
        roles=list(model.roles),
        licence=model.licence,
    )

import json
from pathlib import Path

import pytest

from training.config.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"


@pytest.mark.parametrize(
    "path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: str(path.relative_to(RECIPES))
)
def test_every_shipped_recipe_can_be_read_and_written(path):
    recipe = read_recipe(path)
    assert recipe.steps > 0
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe

from pathlib import Path

import pytest

from training.config import Recipe, RecipeInvalid, read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
MINIMAL = """
name = "x"
version = "1"
licence = "CC0-1.0"
teacher = { model = "teacher" }
[[stage]]
name = "one"
steps = 10
warmup_steps = 4
data = { bitext = 1 }
methods = [{ method = "info_nce" }]
batch_rows = 8
batch_tokens = 64
learning_rate = 1e-3
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return read_recipe(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_read(path):
    assert read_recipe(path).steps > 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('version = "1"', 'version = "1"\nflavour = "mint"', "flavour"),
        ("steps = 10", "steps = 0", "stage.0.steps"),
        ('"info_nce"', '"magic"', "magic"),
        ("{ bitext = 1 }", "{ bitext = 1, english = 1 }", "has one side"),
        ("{ bitext = 1 }", "{ lexicon = 1 }", "lexicon"),
        ("{ bitext = 1 }", "{}", "names no source"),
        ('name = "one"', 'name = "one"\nbody = false', "must train the body"),
        ("[[stage]]", "[student]\nhidden = 10\nheads = 4\n[[stage]]", "multiple of heads"),
        ("steps = 10", "steps = ten", "not TOML"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path, old, new, said):
    assert old in MINIMAL
    with pytest.raises(RecipeInvalid, match=said):
        read(tmp_path, MINIMAL.replace(old, new))


def test_a_missing_recipe_is_said_so(tmp_path):
    with pytest.raises(RecipeInvalid, match="No such file"):
        read_recipe(tmp_path / "nowhere.toml")


def test_scaling_shortens_every_stage_but_never_to_nothing(tmp_path):
    recipe = read(tmp_path, MINIMAL)
    assert (recipe.scaled(0.5).stage[0].steps, recipe.scaled(0.5).stage[0].warmup_steps) == (5, 2)
    assert recipe.scaled(1e-6).steps == 1


def test_a_recipe_of_other_values_has_another_fingerprint(tmp_path):
    recipe = read(tmp_path, MINIMAL)
    assert recipe.fingerprint() == read(tmp_path, MINIMAL).fingerprint()
    assert recipe.fingerprint() != recipe.scaled(0.5).fingerprint()
    assert recipe.taught_by("elsewhere").teacher.model == "elsewhere"

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training.commands.train import train
from training.config.recipe import Recipe, RecipeInvalid

app = typer.Typer()
app.command()(train)


@pytest.fixture
def written(recipe, tmp_path) -> Path:
    """The toy recipe as TOML."""
    path = tmp_path / "toy.toml"
    path.write_text(toml(recipe), "utf-8")
    return path


def toml(recipe: Recipe) -> str:
    content = recipe.model_dump(mode="json", exclude_none=True)
    return "\n".join(f"{name} = {literal(value)}" for name, value in content.items())


def literal(value: object) -> str:
    """A TOML value on one line."""
    match value:
        case dict():
            inner = ", ".join(f'"{name}" = {literal(one)}' for name, one in value.items())
            return f"{{ {inner} }}"
        case list():
            return f"[{', '.join(literal(one) for one in value)}]"
        case bool():
            return str(value).lower()
        case str():
            return f"'{value}'"
        case _:
            return repr(value)


def call(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=True)


def test_a_run_can_be_cut_short_and_goes_on(written, data, tmp_path):
    out = tmp_path / "run"
    options = (written, "--data", data, "--out", out, "--device", "cpu", "--no-export")
    options += ("--set", "stage.0.steps=2", "--set", "stage.1.steps=2", "--seed", 3)
    options += ("--set", "stage.0.warmup_steps=0", "--set", "stage.1.warmup_steps=0")
    first = call(*options, "--stop-after-steps", 3)
    assert first.exit_code == 0, first.output
    assert "stopped; go on with the same command and --resume" in first.output
    rest = call(*options, "--resume")
    assert rest.exit_code == 0, rest.output
    assert "all 4 steps are done" in rest.output
    assert Recipe.model_validate_json((out / "recipe.json").read_text("utf-8")).seed == 3
    assert not (out / "bundle").exists()


def test_what_the_recipe_does_not_have_is_refused(written, data, tmp_path):
    refused = call(written, "--data", data, "--out", tmp_path / "run", "--set", "loop.speed=9")
    assert isinstance(refused.exception, RecipeInvalid)
    refused = call(written, "--data", data, "--out", tmp_path / "run", "--start", "elsewhere")
    assert isinstance(refused.exception, RecipeInvalid)
    assert call(written, "--data", data, "--device", "tpu").exit_code == 2
    assert not (tmp_path / "run").exists()


def test_the_help_says_how_to_resume_and_how_to_use_several_devices():
    said = " ".join(call("--help").output.split())
    assert "goes on with --resume and the same options" in said
    assert "accelerate launch" in said
    for option in ("--set", "--seed", "--start", "--steps-scale", "--teacher", "--no-export"):
        assert option in said

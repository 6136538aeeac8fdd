import json
import re

import pytest
from typer.testing import CliRunner

from training.__main__ import app, main, missing_packages
from training.config import Recipe

runner = CliRunner()


def toml(recipe: Recipe, path):
    """The recipe as TOML: JSON values of our kinds are TOML values, tables are written inline."""

    def value(part):
        if isinstance(part, dict):
            pairs = (f"{json.dumps(k)} = {value(v)}" for k, v in part.items() if v is not None)
            return "{ " + ", ".join(pairs) + " }"
        if isinstance(part, list):
            return "[" + ", ".join(map(value, part)) + "]"
        return json.dumps(part)

    lines = (f"{k} = {value(v)}" for k, v in recipe.model_dump(mode="json").items())
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "train",
            ["--data", "--out", "--device", "--resume", "--steps-scale", "--teacher", "--cache"],
        ),
        ("export", ["--out"]),
        ("evaluate", ["--data", "--recipe", "--precision", "--json"]),
    ],
)
def test_help_explains_every_option(command, options):
    shown = re.sub(r"\x1b\[[0-9;]*m", "", runner.invoke(app, [command, "--help"]).output)
    assert all(option in shown for option in options)


def test_packages_that_are_not_installed_are_named():
    assert missing_packages(("json", "no_such_package")) == ["no_such_package"]


def test_a_mistake_is_said_in_one_line_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(tmp_path / "no.toml"), "--data", str(tmp_path)])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "no.toml: No such file or directory" in said.replace("\n", "")
    assert "Traceback" not in said


def test_an_unknown_device_is_named(tmp_path, capsys, recipe):
    path = toml(recipe, tmp_path / "toy.toml")
    with pytest.raises(SystemExit):
        main(["train", str(path), "--data", str(tmp_path), "--device", "tpu"])
    assert "'tpu' is none of auto, cpu, cuda" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_road_from_a_recipe_to_a_measured_bundle(tmp_path, data, recipe, capsys):
    path, out = toml(recipe, tmp_path / "toy.toml"), tmp_path / "run"
    common = [str(path), "--data", str(data), "--out", str(out), "--device", "cpu"]
    common += ["--steps-scale", "0.5", "--teacher", recipe.teacher.model, "--no-export"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *common, "--stop-after-steps", "3"])
    assert stopped.value.code == 0
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["train", *common, "--resume"])
    assert stopped.value.code == 0, capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(out), "--out", str(out / "bundle")])
    assert stopped.value.code == 0
    assert "mean cosine" in capsys.readouterr().err
    measured = {}
    for what in (out, out / "bundle"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", str(what), "--data", str(data), "--json"])
        assert stopped.value.code == 0
        measured[what] = json.loads(capsys.readouterr().out)
    assert measured[out] == measured[out / "bundle"]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(out / "bundle"), "--data", str(data)])
    assert stopped.value.code == 0
    assert "ntrex" in capsys.readouterr().out

import json
import re

import pytest
from typer.testing import CliRunner

from service.bundle import Bundle
from tests.training.commands.test_train import toml
from training.__main__ import app, main
from training.commands.terminal import missing_packages

runner = CliRunner()
COMMANDS = (
    "train", "mine", "evaluate", "report", "export", "import-model", "publish", "compatible",
)  # fmt: skip


def run(*arguments):
    """What a user does at a prompt; the exit status."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    shown = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
    assert shown.exit_code == 0
    assert f"{command} [OPTIONS]" in text
    undescribed = [
        line
        for line in text.splitlines()
        if re.fullmatch(r"│\s+\*?\s*--[\w-]+\s+(<\w+>)?\s*│", line)
    ]
    assert undescribed == []


def test_the_help_lists_all_commands():
    text = runner.invoke(app, ["--help"]).output
    assert all(command in text for command in COMMANDS)


def test_packages_that_are_not_installed_are_named():
    assert missing_packages(("json", "no_such_package")) == ["no_such_package"]


def test_a_mistake_is_said_in_one_line_without_a_traceback(tmp_path, capsys):
    assert run("train", tmp_path / "no.toml", "--data", tmp_path) == 1
    said = capsys.readouterr().err
    assert "no.toml: No such file or directory" in said.replace("\n", "")
    assert "Traceback" not in said


def test_what_the_service_s_own_code_refuses_is_said_in_one_line_too(tmp_path, capsys):
    (tmp_path / "bundle.json").write_text("{}")
    assert run("publish", tmp_path, "--registry", tmp_path) == 1
    said = capsys.readouterr().err
    assert "error: bundle.json: format None" in said
    assert "Traceback" not in said


def test_an_unknown_device_is_named(tmp_path, capsys, recipe):
    path = tmp_path / "toy.toml"
    path.write_text(toml(recipe), "utf-8")
    assert run("train", path, "--data", tmp_path, "--device", "tpu") == 2
    assert "'tpu' is not one of 'auto', 'cpu', 'cuda'" in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


@pytest.mark.slow
def test_the_whole_road_from_a_recipe_to_a_bundle_and_a_report(tmp_path, data, recipe, capsys):
    path, out = tmp_path / "toy.toml", tmp_path / "run"
    path.write_text(toml(recipe), "utf-8")
    common = (path, "--data", data, "--out", out, "--device", "cpu", "--steps-scale", 0.5)
    assert run("train", *common, "--stop-after-steps", 3) == 0
    assert "--resume" in capsys.readouterr().err
    assert run("train", *common, "--resume") == 0, capsys.readouterr().err
    assert Bundle.open(out / "bundle").manifest.name == recipe.name
    measured = {}
    for what in (out, out / "bundle"):
        capsys.readouterr()
        assert run("evaluate", what, "--data", data, "--json") == 0
        measured[what] = json.loads(capsys.readouterr().out)["summary"]
    assert measured[out] == measured[out / "bundle"]
    page = tmp_path / "report.html"
    assert run("report", out, "--data", data, "--before", out / "bundle", "--out", page) == 0
    assert "<h2>Map of parallel sentences</h2>" in page.read_text("utf-8")

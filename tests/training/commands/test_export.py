"""The command that exports a run, and the table that it shows."""

import typer
from typer.testing import CliRunner

from training.commands.bundles import choices_of, show
from training.commands.export import export
from training.export.order import Sealed
from training.pretrained import ModelMissing

app = typer.Typer()
app.command()(export)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    done = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ModelMissing)
    assert "holds no last weights" in str(done.exception)


def test_weights_that_do_not_exist_by_name_are_a_usage_error(tmp_path):
    arguments = [str(tmp_path), "--out", str(tmp_path / "o"), "--weights", "first"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "'first' is not one of 'auto', 'best', 'last'" in " ".join(
        done.output.replace("│", " ").split()
    )


def test_options_become_choices(tmp_path):
    choices = choices_of(
        precisions="fp32, fp16",
        exporter="optimum",
        optimum_python=tmp_path,
        dimension=8,
        remove_languages=True,
        rank=2,
    )
    assert (choices.precisions, choices.exporter) == (("fp32", "fp16"), "optimum")
    assert (choices.dimension, choices.remove_languages, choices.rank) == (8, True, 2)
    assert choices.optimum_python == tmp_path


def test_the_table_names_what_failed_and_what_is_there(tiny_bundle, capsys):
    row = {
        "language": "th",
        "texts": 3,
        "mean_cosine": 0.9,
        "min_cosine": 0.8,
        "top10_overlap": 1.0,
        "fp32_ndcg": None,
        "ndcg": None,
        "passed": False,
    }
    show(Sealed(tiny_bundle, parity=1e-7, gates={"int8": [row]}))
    shown = capsys.readouterr().err
    assert "int8 is not shipped: it failed in th" in shown
    assert f"{tiny_bundle.folder}: tiny/1, fp32, int8, " in shown
    assert "16 dimensions; torch and the service agree to 1.0e-07" in shown

import pytest
import typer
from typer.testing import CliRunner

from tests.training.benchmarks.benchmark_files import write_table
from tests.training.report.report_fixtures import results, run_folder
from training.commands.report import report
from training.report.reading import NothingToReport


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(report)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def data(tmp_path):
    for code, words in (
        ("eng", ("river", "house", "garden")),
        ("deu", ("Fluss", "Haus", "Garten")),
    ):
        rows = [(n, "d", word) for n, word in enumerate(words)]
        write_table(tmp_path / "eval" / "ntrex" / f"{code}.tsv", ("id", "doc", "text"), *rows)
    return tmp_path


def test_results_of_two_models_become_one_page(run, tmp_path):
    results("ours", gain=2.0).write(tmp_path / "ours.json")
    results("theirs").write(tmp_path / "theirs.json")
    out = tmp_path / "page.html"
    done = run(tmp_path / "ours.json", "--baseline", tmp_path / "theirs.json", "--out", out)
    assert done.exit_code == 0, done.output
    html = out.read_text("utf-8")
    assert "<h2>Gains and losses</h2>" in html
    assert "<h2>Map of parallel sentences</h2>" not in html


def test_a_data_folder_adds_the_map_of_a_model_that_is_named(run, data, tmp_path, tiny_bundle):
    results("ours").write(tmp_path / "ours.json")
    out = tmp_path / "page.html"
    done = run(
        tmp_path / "ours.json", "--data", data, "--before", tiny_bundle.folder, "--sentences", 2,
        "--languages", "de", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    html = out.read_text("utf-8")
    assert "<h2>Map of parallel sentences</h2>" in html
    assert "river" in html
    assert "garden" in html
    assert "house" not in html


def test_a_map_without_a_model_is_a_usage_error(run, data, tmp_path):
    results("ours").write(tmp_path / "ours.json")
    done = run(tmp_path / "ours.json", "--data", data, "--out", tmp_path / "page.html")
    assert done.exit_code == 2
    assert "--before" in done.output


def test_a_run_that_has_not_ended_is_refused(run, tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "scores.json").unlink()
    done = run(folder, "--out", tmp_path / "page.html")
    assert isinstance(done.exception, NothingToReport)
    assert not (tmp_path / "page.html").exists()

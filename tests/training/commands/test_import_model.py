"""The command that imports a model."""

import pytest
import typer
from typer.testing import CliRunner

from service.bundle import Bundle
from service.errors import BundleInvalid
from service.golden import GoldenQuery, write_golden
from tests.training.pretrained_fixtures import sentence_folder, transformers_folder
from training.commands.import_model import import_model
from training.export.graph import ExportFailed

app = typer.Typer()
app.command()(import_model)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_folder_that_says_nothing_is_imported_with_what_is_said_for_it(tmp_path):
    transformers_folder(tmp_path / "model")
    probes = tmp_path / "probes.tsv"
    probes.write_text("language\ttext\tenglish\nde\tein Hund\ta dog\n", "utf-8")
    said = ("--pooling", "cls", "--licence", "MIT", "--languages", "de, en", "--max-tokens", "32")
    prompts = ("--query-prompt", "q: ", "--passage-prompt", "p: ", "--precisions", "fp32")
    names = ("--name", "mine", "--version", "7", "--probes", probes)
    query = GoldenQuery({"de": "ein Hund"}, {"en": "a dog"})
    write_golden(tmp_path / "mine.jsonl", [query])
    files = ("--golden", tmp_path / "mine.jsonl")
    done = call(tmp_path / "model", "--out", tmp_path / "out", *said, *prompts, *names, *files)
    assert done.exit_code == 0, done.output
    assert Bundle.open(tmp_path / "out").golden() == [query]
    manifest = Bundle.open(tmp_path / "out").manifest
    assert (manifest.name, manifest.version, manifest.pooling) == ("mine", "7", "cls")
    assert manifest.prompts == {"query": "q: ", "passage": "p: "}
    assert manifest.languages == ["de", "en"]
    assert manifest.max_tokens == 32
    assert manifest.provenance.licence == "MIT"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precisions", "fp32,int4"), "'int4' is none of fp32, fp16, int8"),
        (("--exporter", "legacy"), "'legacy' is not one of 'torch', 'optimum'"),
        (("--pooling", "max"), "'max' is not one of 'mean', 'cls'"),
        (("--query-prompt", "q: "), "say both --query-prompt and"),
        (("--probes", "/nowhere.tsv"), "does not exist"),
    ],
)
def test_a_wrong_option_is_a_usage_error(tmp_path, options, said):
    done = call(tmp_path, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


def test_golden_queries_that_are_none_are_refused_by_line(tmp_path):
    sentence_folder(tmp_path / "model", card="license: mit")
    (tmp_path / "mine.jsonl").write_text('{"query": {"de": "ein Hund"}}\n')
    golden = ("--golden", tmp_path / "mine.jsonl")
    done = call(tmp_path / "model", "--out", tmp_path / "out", *golden)
    assert isinstance(done.exception, BundleInvalid)
    assert "mine.jsonl:1: not an object" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_what_the_export_refuses_is_raised(tmp_path):
    sentence_folder(tmp_path / "model")
    done = call(tmp_path / "model", "--out", tmp_path / "out")
    assert isinstance(done.exception, ExportFailed)
    assert "states no licence" in str(done.exception)

import json

import pytest
import typer
from typer.testing import CliRunner

from tests.tiny_bundle import build_tiny_bundle
from tests.training.benchmarks.benchmark_files import write_objects, write_table
from tests.training.pretrained_fixtures import backbone, saved_run, spelling_model
from training.commands.evaluate import evaluate
from training.model import SentenceEncoder
from training.results import Results

LANGUAGES = ("de", "en", "ru")
QUESTIONS = [f"where is the {thing}" for thing in ("river", "house", "garden", "school")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    place = folder / "eval" / "xquad_r"
    for language in LANGUAGES:
        corpus = [
            {"_id": f"p{n}", "text": f"{text} {language} {'x' * n}"}
            for n, text in enumerate(QUESTIONS)
        ]
        queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(QUESTIONS)]
        write_objects(place / f"corpus.{language}.jsonl.gz", corpus)
        write_objects(place / f"queries.{language}.jsonl.gz", queries)
    pairs = [(f"q{n}", f"p{n}", 1) for n in range(4)]
    write_table(place / "qrels.tsv", ("query-id", "corpus-id", "score"), *pairs)
    rows = [(text, text.upper()) for text in QUESTIONS]
    write_table(folder / "eval" / "tatoeba" / "deu.tsv", ("english", "foreign"), *rows)
    return folder


@pytest.fixture(scope="module")
def run(data):
    app = typer.Typer()
    app.command()(evaluate)

    def invoke(*arguments, **options):
        return CliRunner().invoke(
            app, [*map(str, arguments), "--data", str(data)], env={"COLUMNS": "160"}, **options
        )

    return invoke


def test_everything_in_the_folder_is_measured_and_shown(run, tiny_bundle):
    done = run(tiny_bundle.folder)
    assert done.exit_code == 0, done.output
    assert "tatoeba (bitext)" in " ".join(done.stdout.split())
    assert "xquad_r (mono, cross): map" in " ".join(done.stdout.split())
    assert "xquad_r (pool)" in done.stdout
    assert "rank_distance" in done.stdout
    assert "not the published numbers of candidates: de 4 (1276)" in " ".join(done.stdout.split())


def test_json_holds_every_cell(run, tiny_bundle):
    done = run(tiny_bundle.folder, "--json", "--benchmarks", "xquad_r:de", "--precision", "int8")
    content = json.loads(done.stdout)
    assert content["model"] == "tiny/1"
    assert content["facts"]["precision"] == "int8"
    assert content["facts"]["space"] == tiny_bundle.manifest.space["int8"]
    cells = {(c["task"], c["queries"], c["candidates"]) for c in content["cells"]}
    assert cells == {
        ("mono", "de", "de"), ("mono", "en", "en"), ("cross", "de", "en"), ("cross", "en", "de"),
        ("pool", "de", "*"), ("pool", "en", "*"),
    }  # fmt: skip


def test_results_are_kept_and_another_model_is_compared_with_them(run, tiny_bundle, tmp_path):
    first = tmp_path / "first.json"
    assert run(tiny_bundle.folder, "--benchmarks", "xquad_r", "--out", first).exit_code == 0
    assert Results.read(first).cells[0].values is not None
    same = run(tiny_bundle.folder, "--benchmarks", "xquad_r", "--against", first, "--json")
    assert {one["difference"] for one in json.loads(same.stdout)["comparison"]} == {0.0}
    other = build_tiny_bundle(tmp_path / "other", name="other", seed=5, dimension=4)
    shown = run(other.folder, "--benchmarks", "xquad_r", "--against", first)
    assert "other/1 minus tiny/1" in " ".join(shown.stdout.split())
    assert "…" in shown.stdout


def test_the_benchmarks_may_be_a_recipes(run, tiny_bundle, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        """
name = "toy"
version = "1"
licence = "CC0-1.0"
[data.sets.pairs]
format = "tsv"
path = "parallel/*.tsv"
[start]
model = "none"
[evaluation]
benchmarks = [{ name = "tatoeba" }]
[[stage]]
name = "only"
steps = 1
learning_rate = 1e-3
rows = 4
tokens = 64
batches = [{ kind = "cross", data = ["pairs"], roles = ["sentence", "sentence"] }]
methods = [{ method = "info_nce" }]
"""
    )
    done = run(tiny_bundle.folder, "--recipe", recipe, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert {cell["benchmark"] for cell in json.loads(done.stdout)["cells"]} == {"tatoeba"}
    recipe.write_text(recipe.read_text().replace('{ name = "tatoeba" }', ""))
    none = run(tiny_bundle.folder, "--recipe", recipe)
    assert none.exit_code == 2
    assert "names no evaluation.benchmarks" in none.output
    both = run(tiny_bundle.folder, "--recipe", recipe, "--benchmarks", "xquad_r")
    assert both.exit_code == 2
    assert "either --recipe or --benchmarks" in both.output


@pytest.mark.parametrize("name", ["scores.txt", "none/scores.json"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    run, tiny_bundle, tmp_path, name
):
    done = run(tiny_bundle.folder, "--out", tmp_path / name)
    assert done.exit_code == 2
    assert "--out" in done.output


@pytest.mark.parametrize(
    ("option", "value"), [("--weights", "first"), ("--pooling", "max"), ("--device", "tpu")]
)
def test_a_value_that_an_option_does_not_have_is_a_usage_error(run, tiny_bundle, option, value):
    done = run(tiny_bundle.folder, option, value)
    assert done.exit_code == 2
    assert value in done.output


def test_of_a_run_the_best_weights_are_measured_unless_others_are_asked_for(run, tmp_path):
    recipe = {"name": "toy", "version": "2", "licence": "CC0-1.0"}
    encoders = {"last": backbone(seed=1), "best": backbone(seed=2)}
    folder = saved_run(
        tmp_path, spelling_model(), recipe, **{k: SentenceEncoder(v) for k, v in encoders.items()}
    )
    (tmp_path / "best").rename(tmp_path / "best.old")  # as a crash between two renames leaves it
    found = {}
    for wanted in ("auto", "best", "last"):
        done = run(folder, "--benchmarks", "tatoeba", "--json", "--weights", wanted)
        content = json.loads(done.stdout)
        found[wanted] = content["facts"]["weights"], content["cells"]
    assert found["auto"] == found["best"] != found["last"]
    assert (found["auto"][0], found["last"][0]) == ("best", "last")


def test_a_task_that_mteb_does_not_have_is_an_error(run, tiny_bundle):
    done = run(tiny_bundle.folder, "--benchmarks", "tatoeba", "--mteb", "NoSuchTask")
    assert "NoSuchTask" in str(done.exception)

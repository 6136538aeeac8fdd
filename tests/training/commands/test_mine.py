"""`isogloss-train mine`, from a recipe and a model on disk to groups that a recipe can train on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from tokenizers import pre_tokenizers
from typer.testing import CliRunner

from tests.training.word_fixtures import BERT, small_encoder, word_tokenizer
from training.commands.mine import mine
from training.config.recipe import Recipe
from training.data import read_corpus
from training.groups import Group
from training.pretrained import Pretrained, save_pretrained
from training.readers import write_groups
from training.vocabulary import Pieces

app = typer.Typer()
app.command()(mine)
TOPICS = ["cat", "dog", "bird", "horse", "fish", "cow"]
DETAILS = ["red", "blue", "old", "small"]
GERMAN = {"cat": "Katze", "dog": "Hund", "bird": "Vogel", "horse": "Pferd", "fish": "Fisch", "cow": "Kuh"}  # fmt: skip
PROMPTS = {"query": "cat ", "passage": "here "}
RECIPE = """
name = "mining"
version = "1"
licence = "CC0-1.0"
[start]
model = "unused"
[data]
held_out_share = 0.4
[data.sets.questions]
format = "groups"
path = "questions.jsonl.gz"
[data.sets.long]
format = "joined"
of = "questions"
rows = 2
[[stage]]
name = "clear"
steps = 1
batches = [{ kind = "bridged", data = ["questions"], negatives = 2 }]
methods = [{ method = "clear" }]
rows = 4
tokens = 512
learning_rate = 1e-4
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every detail of every topic is asked for, in German too but for the cows."""
    root = tmp_path_factory.mktemp("mine")
    groups = [
        Group(
            id=f"{topic}-{detail}",
            texts={
                "query": {"en": f"which {topic} is {detail}"}
                | ({} if topic == "cow" else {"de": f"welche {GERMAN[topic]} {detail}"}),
                "passage": {"en": f"the {topic} here is {detail}"},
            },
            source="made",
        )
        for topic in TOPICS
        for detail in DETAILS
    ]
    write_groups(root / "questions.jsonl.gz", groups)
    (root / "recipe.toml").write_text(RECIPE, "utf-8")
    words = ["which", "is", "the", "here", *TOPICS, *DETAILS]
    pieces = Pieces.of(word_tokenizer(words, special=BERT[:4], cut=pre_tokenizers.Whitespace()), 16)
    shape = {"max_position_embeddings": 16, "initializer_range": 0.2}
    encoder = small_encoder(pieces.size, layers=1, seed=1, **shape).eval()
    for name, parameter in encoder.named_parameters():  # a bag of words
        if name.endswith("output.dense.weight") or "position" in name:
            torch.nn.init.zeros_(parameter)
    model = Pretrained(
        encoder=encoder,
        pieces=pieces,
        prompts={"query": "", "passage": ""},
        max_tokens=16,
        name="tiny",
    )
    save_pretrained(root / "model", model)
    save_pretrained(root / "prompted", replace(model, prompts=PROMPTS))
    return root


def run(
    folder: Path,
    *options: str,
    out: str = "mined.jsonl.gz",
    name: str = "questions",
    model: str = "model",
) -> str:
    arguments = [
        str(folder / model), "--data", str(folder), "--recipe", str(folder / "recipe.toml"),
        "--set", name, "--out", str(folder / out), "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    found = CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "300"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def written(folder: Path, out: str = "mined.jsonl.gz") -> dict[str, Group]:
    settings = {"format": "groups", "path": out}
    recipe = Recipe.model_validate(
        {
            "name": "read", "version": "1", "licence": "CC0-1.0", "start": {"model": "unused"},
            "data": {"sets": {"mined": settings}, "held_out_share": 0.01},
            "stage": [{
                "name": "s", "steps": 1, "rows": 2, "tokens": 64, "learning_rate": 1e-3,
                "batches": [{"kind": "mono", "data": ["mined"]}],
                "methods": [{"method": "info_nce"}],
            }],
        }
    )  # fmt: skip
    corpus = read_corpus(folder, recipe)
    table = corpus.sets["mined"]
    return {
        name: Group(
            name,
            {},
            "",
            tuple(table.ids[number] for number in table.negatives[row] if number >= 0),
        )
        for row, name in enumerate(table.ids)
    }


def test_the_groups_are_written_with_negatives_and_a_report_lies_beside_them(folder: Path) -> None:
    output = run(folder, "--ranks", "1-20", "--share", "1", "--count", "4")
    groups = written(folder)
    assert len(groups) == len(TOPICS) * len(DETAILS)
    report = json.loads((folder / "mined.report.json").read_text("utf-8"))
    assert report["groups"] == report["queries"] == report["passages"] == len(groups)
    assert report["negatives"] == sum(len(group.negatives) for group in groups.values())
    assert report["set"] == "questions"
    assert "negatives" in output
    alike = [
        bool(set(name.split("-")) & set(negative.split("-")))
        for name, group in groups.items()
        for negative in group.negatives
    ]
    # Of all other passages 8 in 23 share a word with the query; of hard ones most do.
    assert sum(alike) / len(alike) > 0.6


def test_mining_twice_writes_the_same_bytes(folder: Path) -> None:
    for out in ("one.jsonl.gz", "two.jsonl.gz"):
        run(folder, "--ranks", "1-20", out=out)
    assert (folder / "one.jsonl.gz").read_bytes() == (folder / "two.jsonl.gz").read_bytes()


def test_the_prompts_are_the_models_own_unless_others_are_said(folder: Path) -> None:
    said = ["--query-prompt", PROMPTS["query"], "--passage-prompt", PROMPTS["passage"]]
    none = ["--query-prompt", "", "--passage-prompt", ""]
    found = {}
    for key, model, options in (
        ("own", "prompted", []), ("said", "model", said), ("none", "model", []), ("other", "prompted", none),
    ):  # fmt: skip
        run(folder, "--ranks", "1-20", *options, out=f"{key}.jsonl.gz", model=model)
        report = json.loads((folder / f"{key}.report.json").read_text("utf-8"))
        found[key] = report["examples"]
    assert found["own"] == found["said"]
    assert found["none"] == found["other"]
    assert found["own"] != found["none"]


def test_for_clear_negatives_have_german_questions(folder: Path) -> None:
    run(
        folder, "--for", "clear", "--languages", "de", "--ranks", "1-23", "--count", "2",
        "--share", "1", out="clear.jsonl.gz",
    )  # fmt: skip
    groups = written(folder, "clear.jsonl.gz")
    for name, group in groups.items():
        assert not any(negative.startswith("cow") for negative in group.negatives)
        if name.startswith("cow"):
            assert group.negatives == ()
    report = json.loads((folder / "clear.report.json").read_text("utf-8"))
    assert report["queries"] == (len(TOPICS) - 1) * len(DETAILS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--for", "clear"], "need each other"),
        (["--languages", "de"], "need each other"),
        (["--ranks", "10"], "'10' is not like 10-100"),
        (["--ranks", "a-b"], "is not like 10-100"),
        (["--roles", "query"], "'query' is not two of"),
        (["--roles", "query,page"], "'query,page' is not two of"),
    ],
)
def test_wrong_options_are_usage_errors(options: list[str], message: str, folder: Path) -> None:
    assert message in run(folder, *options)


def test_the_name_of_the_output_must_say_what_it_is(folder: Path) -> None:
    assert "does not end in .jsonl.gz" in run(folder, out="mined.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [("answers", "only the data sets questions, long"), ("long", "made of 'questions' anew")],
)
def test_a_set_that_cannot_be_mined_is_refused(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, name=name)

"""A small parallel world: templates in five languages, a random teacher, a recipe of seconds."""

import gzip
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.training.pretrained_fixtures import teacher_folder
from training.config.recipe import Recipe

WORDS = {
    "en": (
        ["cat", "dog", "bird", "horse"],
        ["sleeps", "eats", "waits"],
        ["garden", "house", "river", "school"],
    ),
    "de": (
        ["Katze", "Hund", "Vogel", "Pferd"],
        ["schläft", "frisst", "wartet"],
        ["Garten", "Haus", "Fluss", "Schule"],
    ),
    "ru": (
        ["кошка", "собака", "птица", "лошадь"],
        ["спит", "ест", "ждёт"],
        ["сад", "дом", "река", "школа"],
    ),
    "hi": (
        ["बिल्ली", "कुत्ता", "पक्षी", "घोड़ा"],
        ["सोता", "खाता", "रुकता"],
        ["बगीचा", "घर", "नदी", "स्कूल"],
    ),
    "zh": (["猫", "狗", "鸟", "马"], ["睡觉", "吃饭", "等待"], ["花园", "房子", "河流", "学校"]),
}
COLOURS = {
    "en": ["red", "blue", "green", "old"],
    "de": ["rot", "blau", "grün", "alt"],
    "ru": ["красный", "синий", "зелёный", "старый"],
    "hi": ["लाल", "नीला", "हरा", "पुराना"],
    "zh": ["红", "蓝", "绿", "老"],
}


def sentences(language: str) -> list[str]:
    """Every combination, in the same order in every language."""
    gap = "" if language == "zh" else " "
    who, does, where = WORDS[language]
    return [gap.join(words) for words in product(COLOURS[language], who, does, where)]


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_pairs(folder: Path, language: str, rows: list[tuple[str, str, str]]) -> Path:
    path = folder / "parallel" / f"en-{language}.tsv.gz"
    write_lines(path, ["english\tforeign\tsource", *("\t".join(row) for row in rows)])
    return path


@pytest.fixture(autouse=True)
def fresh_processes() -> Iterator[None]:
    """accelerate keeps the device and the precision of a process for ever; a test may have others."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices of this size gain nothing from threads, and wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 pairs in each of four languages, questions with passages, one bitext benchmark."""
    folder = tmp_path_factory.mktemp("data")
    english = sentences("en")
    for language in ("de", "ru", "hi", "zh"):
        pairs = zip(english, sentences(language), strict=True)
        write_pairs(folder, language, [(en, xx, "templates") for en, xx in pairs])
    passages = [
        {
            "_id": f"p{i}",
            "title": text.split()[1],
            "text": f"{text}. More of it.",
            "source": "notes",
        }
        for i, text in enumerate(english[:40])
    ]
    write_lines(folder / "qa" / "passages.en.jsonl.gz", [json.dumps(row) for row in passages])
    triples = [
        {"lang": "de", "question_en": f"who {en}", "question": f"wer {de}", "passage_id": f"p{i}"}
        for i, (en, de) in enumerate(zip(english[:40], sentences("de"), strict=False))
    ]
    write_lines(folder / "qa" / "triples.de.jsonl.gz", [json.dumps(row) for row in triples])
    natural = {"question": "who waits", "title": "waiting", "passage": "old cat waits house"}
    write_lines(folder / "qa" / "clapnq.en.jsonl.gz", [json.dumps(natural)])
    rows = [f"{i}\td\t{text}" for i, text in enumerate(english[:20])]
    write_lines(folder / "eval" / "ntrex" / "eng.tsv.gz", ["id\tdoc\ttext", *rows])
    rows = [f"{i}\td\t{text}" for i, text in enumerate(sentences("de")[:20])]
    write_lines(folder / "eval" / "ntrex" / "deu.tsv.gz", ["id\tdoc\ttext", *rows])
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random English encoder, wider than the student."""
    words = ["who", *COLOURS["en"], *(w for ws in WORDS["en"] for w in ws)]
    return teacher_folder(tmp_path_factory.mktemp("teacher"), words)


@pytest.fixture(scope="session")
def recipe(teacher: Path) -> Recipe:
    stage = {"rows": 24, "tokens": 512, "learning_rate": 3e-3, "warmup_steps": 2, "steps": 8}
    sentences = {"roles": ["sentence", "sentence"], "data": ["parallel"]}
    return Recipe.model_validate(
        {
            "name": "toy",
            "version": "1",
            "licence": "CC0-1.0",
            "data": {
                "held_out_share": 0.15,
                "licences": {"templates": "CC0-1.0"},
                "sets": {
                    "parallel": {"format": "tsv", "path": "parallel/en-*.tsv.gz"},
                    "questions": {
                        "format": "triples",
                        "path": "qa/triples.*.jsonl.gz",
                        "passages": "qa/passages.en.jsonl.gz",
                    },
                    "joined": {"format": "joined", "of": "parallel", "rows": 24, "sentences": 3},
                },
            },
            "vocabulary": {"pieces": 450, "sample_characters": 12_000},
            "student": {
                "hidden": 32,
                "layers": 1,
                "heads": 2,
                "feed_forward": 48,
                "max_tokens": 40,
            },
            "teacher": {"model": str(teacher), "pooling": "mean", "max_tokens": 64},
            "loop": {"log_every": 2, "checkpoint_every": 4},
            "evaluation": {"benchmarks": [{"name": "ntrex", "languages": ["de"]}]},
            "stage": [
                {
                    **stage,
                    "name": "teach",
                    "batches": [
                        {**sentences, "kind": "cross", "pivot": "en", "share": 3},
                        {**sentences, "kind": "cross", "data": ["joined"]},
                        {"kind": "single", "role": "passage", "data": ["questions"]},
                    ],
                    "methods": [{"method": "distillation", "relation_weight": 0.1}],
                },
                {
                    **stage,
                    "name": "align",
                    "token_dropout": 0.1,
                    "accumulate": 2,
                    "cache_rows": 5,
                    "batches": [
                        {**sentences, "kind": "cross"},
                        {"kind": "cross", "data": ["questions"]},
                    ],
                    "methods": [
                        {"method": "info_nce", "symmetric": True},
                        {"method": "distillation", "distance": "mse", "weight": 0.5},
                    ],
                },
            ],
        }
    )

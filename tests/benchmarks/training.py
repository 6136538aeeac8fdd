"""How fast training is: tokens per second against Sentence Transformers' trainer, and the memory of a big batch.

    python -m tests.benchmarks.training --data FOLDER [--rows 64] [--epoch-rows 2048] [--rounds 3]

One epoch of InfoNCE and one of CLEAR on the questions of the data folder: the same model, the same
rows, precision, threads and optimiser, in turns in one process. A token is a word piece that is no
padding; both are charged with tokenising, neither with reading files. CLEAR does not exist there:
its loss is written for their trainer as their documentation says. The second part measures the peak
memory of one step by batch size, each in a process of its own, with and without the gradient cache.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from transformers.utils import logging as messages

from training.config.recipe import Recipe
from training.corpus import NOTHING, Corpus
from training.data import read_corpus
from training.pretrained import open_pretrained
from training.trainer.processes import open_processes
from training.trainer.stage import Material, StageRun

MODEL = "models/starter/1.0.0"
BATCHES = {
    "info_nce": {"kind": "cross", "data": ["questions"], "pivot": "en", "language_exponent": 1.0},
    "clear": {"kind": "bridged", "data": ["questions"], "language_exponent": 1.0},
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    if options.memory is not None:
        print(json.dumps(peak_of_a_step(options, options.memory, options.cache_rows)))
        return
    for method in BATCHES:
        corpus = read_corpus(options.data, recipe_of(method, options))
        rounds = [
            (ours(method, corpus, options), theirs(method, corpus, options))
            for _ in range(options.rounds)
        ]
        report(method, rounds)
    memory(options)


def recipe_of(method: str, options: argparse.Namespace, cache_rows: int | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "speed",
            "version": "1",
            "licence": "none",
            "start": {"model": MODEL, "max_tokens": options.max_tokens},
            "data": {
                "sets": {
                    "questions": {
                        "format": "triples",
                        "path": "qa/triples.*.jsonl.gz",
                        "passages": "qa/passages.en.jsonl.gz",
                    }
                },
                "languages": ["de", "es", "zh"],
            },
            "loop": {"precision": "fp32", "trackers": []},
            "stage": [
                {
                    "name": method,
                    "steps": max(1, options.epoch_rows // options.rows),
                    "rows": options.rows,
                    "tokens": options.rows * options.max_tokens,
                    "cache_rows": cache_rows,
                    "learning_rate": 1e-5,
                    "schedule": "linear",
                    "batches": [BATCHES[method]],
                    "methods": [{"method": method}],
                }
            ],
        }
    )


def ours(method: str, corpus: Corpus, options: argparse.Namespace) -> tuple[int, float]:
    """Tokens and seconds of one epoch."""
    recipe = recipe_of(method, options)
    model = open_pretrained(MODEL, max_tokens=options.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        processes = open_processes(recipe, "cpu", folder=Path(folder))
        start = perf_counter()
        stage = StageRun(
            recipe,
            0,
            model=model,
            material=Material(corpus, None, options.data),
            processes=processes,
        )
        tokens = sum(int(stage.step(step).tokens) for step in range(recipe.steps))
        return tokens, perf_counter() - start


def theirs(method: str, corpus: Corpus, options: argparse.Namespace) -> tuple[int, float]:
    """The same of Sentence Transformers; tokens are counted outside of the time."""
    model = SentenceTransformer(MODEL, device="cpu")
    model.max_seq_length = options.max_tokens
    columns = columns_of(method, corpus, options.epoch_rows // options.rows * options.rows)
    loss = MultipleNegativesRankingLoss(model) if method == "info_nce" else ClearLoss(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=options.rows,
            num_train_epochs=1,
            learning_rate=1e-5,
            weight_decay=0.01,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss
        )
        start = perf_counter()
        trainer.train()
        seconds = perf_counter() - start
    pieces = open_pretrained(MODEL, max_tokens=options.max_tokens).pieces
    tokens = sum(len(row) for texts in columns.values() for row in pieces.encode(texts))
    return tokens, seconds


def columns_of(method: str, corpus: Corpus, rows: int) -> dict[str, list[str]]:
    """The first rows in an order without system: question and passage, for CLEAR in English too."""
    table = corpus.sets["questions"]
    queries, passages = table.texts["query"], table.texts["passage"]
    generator = torch.Generator().manual_seed(1)
    units = [
        (group, language)
        for group, language in zip(*(queries != NOTHING).nonzero(), strict=True)
        if language != 0
    ]
    order = torch.randperm(len(units), generator=generator).tolist()[:rows]
    chosen = [units[place] for place in order]
    foreign = [corpus.texts[queries[group, language]] for group, language in chosen]
    answers = [corpus.texts[passages[group, 0]] for group, _ in chosen]
    if method == "info_nce":
        return {"anchor": foreign, "positive": answers}
    english = [corpus.texts[queries[group, 0]] for group, _ in chosen]
    return {"anchor": english, "positive": answers, "cross": foreign}


class ClearLoss(nn.Module):
    """CLEAR's loss as its authors wrote it, without hard negatives."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        query, passage, cross = (
            F.normalize(self.model(feature)["sentence_embedding"]) for feature in features
        )
        forward, reverse = 20 * query @ passage.T, 20 * passage @ cross.T
        own = torch.arange(len(query))
        divergence = F.kl_div(
            forward.log_softmax(-1), reverse.log_softmax(-1), log_target=True, reduction="batchmean"
        )
        contrast = 0.4 * F.cross_entropy(forward, own) + 0.4 * F.cross_entropy(reverse, own)
        return contrast + 0.2 * divergence


def report(method: str, rounds: list[tuple[tuple[int, float], tuple[int, float]]]) -> None:
    speeds = [[tokens / seconds for tokens, seconds in pair] for pair in rounds]
    ratios = [ours / theirs for ours, theirs in speeds]
    shown = {
        "method": method,
        "tokens": [rounds[0][0][0], rounds[0][1][0]],
        "ours_tokens_per_second": [round(ours) for ours, _ in speeds],
        "sentence_transformers_tokens_per_second": [round(theirs) for _, theirs in speeds],
        "ratio_median": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
    print(json.dumps(shown), flush=True)


def memory(options: argparse.Namespace) -> None:
    for cache_rows in (None, 16):
        for rows in (32, 128, 512):
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.training",
                "--data",
                str(options.data),
            ]
            command += ["--memory", str(rows), "--threads", str(options.threads)]
            command += [] if cache_rows is None else ["--cache-rows", str(cache_rows)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(said.strip().splitlines()[-1], flush=True)


def peak_of_a_step(
    options: argparse.Namespace, rows: int, cache_rows: int | None
) -> dict[str, object]:
    """How much the peak of resident memory grows by the second step of a stage, in MB."""
    options.rows, options.epoch_rows = rows, 2 * rows
    recipe = recipe_of("info_nce", options, cache_rows)
    corpus = read_corpus(options.data, recipe)
    model = open_pretrained(MODEL, max_tokens=options.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        processes = open_processes(recipe, "cpu", folder=Path(folder))
        stage = StageRun(
            recipe,
            0,
            model=model,
            material=Material(corpus, None, options.data),
            processes=processes,
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stage.step(0)
        stage.step(1)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": rows,
        "cache_rows": cache_rows,
        "peak_growth_mb": round((after - before) / 1024),
    }


def parse_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with qa/")
    options.add_argument("--rows", type=int, default=64, help="of a batch")
    options.add_argument("--epoch-rows", type=int, default=2048)
    options.add_argument("--max-tokens", type=int, default=256, help="the model's own limit")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--memory", type=int, help="only the peak of a step with so many rows")
    options.add_argument("--cache-rows", type=int)
    return options.parse_args()


if __name__ == "__main__":
    main()

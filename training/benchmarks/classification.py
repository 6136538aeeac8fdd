"""Zero-shot classification of pairs of texts: a head trained on English, tested in every language.

XNLI (`xnli.test.tsv`; trained on `multinli.train.en.tsv` of XNLI-MT) and PAWS-X
(`LANG/test_2k.tsv`; trained on `en/train.tsv`). The encoder is frozen: a logistic regression reads
[u; v; |u - v|; u * v] of the two unit vectors (Conneau et al. 2017), so the numbers are not those
of papers that train the whole encoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.benchmarks.embedding import Embed
from training.benchmarks.files import (
    ENGLISH,
    BenchmarkInvalid,
    BenchmarkMissing,
    chosen,
    iso,
    located,
    rows,
)
from training.config.evaluation import Benchmark
from training.results import Cell

PENALTY = 1e-4
"""On half the squared weights of the head, beside the mean cross-entropy."""
ITERATIONS = 200
XNLI_LABELS = {"contradictory": "contradiction"}
"""XNLI-MT's word for what XNLI calls otherwise."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs of texts with their labels."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """A classification benchmark: English to train on, every language to test."""

    name: str
    training: Examples
    tests: dict[str, Examples]

    def texts(self) -> Iterator[tuple[str, str]]:
        """The texts that are tested; the English training part is no evaluation."""
        for language, examples in self.tests.items():
            for one in (examples.left, examples.right):
                yield from ((language, text) for text in one)

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """Train the head, test it."""
        classes = sorted(set(self.training.labels))
        head = Head.fit(features(self.training, embed), self.training.labels, classes)
        for language, examples in self.tests.items():
            if unknown := set(examples.labels) - set(classes):
                raise BenchmarkInvalid(
                    f"{self.name}: the test in {language} has the label {unknown.pop()!r}, which"
                    f" the training part has not; it has {', '.join(classes)}"
                )
            said = head.predict(features(examples, embed))
            right = np.array([a == b for a, b in zip(said, examples.labels, strict=True)])
            places = {text: number for number, text in enumerate(dict.fromkeys(examples.left))}
            yield Cell(
                self.name,
                "zero_shot",
                language,
                language,
                {"accuracy": round(100 * float(right.mean()), 4)},
                len(right),
                values=(100 * right).astype(np.float32),
                clusters=np.array([places[text] for text in examples.left], dtype=np.int64),
            )


@dataclass(frozen=True, slots=True)
class Head:
    """A multinomial logistic regression on standardised features."""

    classes: Sequence[str]
    layer: nn.Linear
    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(
        cls, given: NDArray[np.float32], labels: Sequence[str], classes: Sequence[str]
    ) -> "Head":
        """The least penalised cross-entropy, by L-BFGS from zero weights: nothing is drawn."""
        data = torch.from_numpy(given)
        mean, scale = data.mean(0), data.std(0).clamp(min=1e-6)
        data = (data - mean) / scale
        target = torch.tensor([classes.index(label) for label in labels])
        layer = nn.Linear(data.shape[1], len(classes))
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimiser = torch.optim.LBFGS(
            layer.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimiser.zero_grad()
            loss = F.cross_entropy(layer(data), target)
            loss = loss + PENALTY / 2 * layer.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        with torch.enable_grad():
            optimiser.step(closure)  # type: ignore[no-untyped-call]
        return cls(classes, layer, mean, scale)

    def predict(self, given: NDArray[np.float32]) -> list[str]:
        """The likeliest class of each row."""
        with torch.inference_mode():
            scores = self.layer((torch.from_numpy(given) - self.mean) / self.scale)
        return [self.classes[number] for number in scores.argmax(1).tolist()]


def features(examples: Examples, embed: Embed) -> NDArray[np.float32]:
    """[u; v; |u - v|; u * v] of each pair, [pairs, 4 * dimension]."""
    left, right = embed(examples.left, "passage"), embed(examples.right, "passage")
    return np.concatenate([left, right, np.abs(left - right), left * right], axis=1)


def read_xnli(benchmark: Benchmark, folder: Path) -> ZeroShot:
    """XNLI: all languages in one file, `-` labels left out."""
    place = folder / benchmark.place
    columns = ("language", "gold_label", "sentence1", "sentence2")
    tests: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows(place / "xnli.test.tsv", *columns):
        tag = iso(row["language"])
        if not benchmark.languages or tag in {ENGLISH, *benchmark.languages}:
            tests.setdefault(tag, []).append(
                (row["sentence1"], row["sentence2"], row["gold_label"])
            )
    if missing := set(benchmark.languages) - tests.keys():
        raise BenchmarkMissing(f"{place / 'xnli.test.tsv'}: nothing in {', '.join(missing)}")
    given = rows(place / "multinli.train.en.tsv", "premise", "hypo", "label")
    training = [
        (row["premise"], row["hypo"], XNLI_LABELS.get(row["label"], row["label"])) for row in given
    ]
    return ZeroShot(
        benchmark.label,
        _examples(place, training, benchmark.training_rows),
        {tag: _examples(place, found, None) for tag, found in sorted(tests.items())},
    )


def read_paws_x(benchmark: Benchmark, folder: Path) -> ZeroShot:
    """PAWS-X: a folder a language."""
    place = folder / benchmark.place
    found = {
        iso(path.name): path / "test_2k.tsv"
        for path in sorted(place.glob("*"))
        if located(path / "test_2k.tsv")
    }
    if not found:
        raise BenchmarkMissing(f"{place}: holds no LANGUAGE/test_2k.tsv; see --data")
    tests = {
        tag: _examples(path, _paws(path), None)
        for tag, path in chosen(found, benchmark.languages).items()
    }
    path = place / "en" / "train.tsv"
    return ZeroShot(benchmark.label, _examples(path, _paws(path), benchmark.training_rows), tests)


def _paws(path: Path) -> list[tuple[str, str, str]]:
    given = rows(path, "sentence1", "sentence2", "label")
    return [(row["sentence1"], row["sentence2"], row["label"]) for row in given]


def _examples(path: Path, given: Sequence[tuple[str, str, str]], most: int | None) -> Examples:
    kept = [one for one in given if one[2] != "-" and one[0] and one[1]][:most]
    if not kept:
        raise BenchmarkInvalid(f"{path}: holds no labelled pair of texts")
    left, right, labels = zip(*kept, strict=True)
    return Examples(left, right, labels)

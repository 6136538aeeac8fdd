"""The benchmarks by name: what each reads, embeds and scores.

A new one is a file here with a class that has `texts` and `cells`, and a line in `READERS`.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from training.benchmarks import (
    beir,
    belebele,
    bitext,
    classification,
    mining,
    squad,
    word_links,
    words,
)
from training.benchmarks.embedding import Embed
from training.benchmarks.files import BenchmarkMissing
from training.config.evaluation import Benchmark
from training.results import Cell


class Measured(Protocol):
    """A benchmark in memory."""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Language and text of everything that is embedded."""

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """The scores of an encoder."""


def _question_answering(benchmark: Benchmark, folder: Path) -> Measured:
    if squad.is_here(benchmark, folder):
        return squad.read(benchmark, folder)
    return beir.read(benchmark, folder)


READERS: Mapping[str, Callable[[Benchmark, Path], Measured]] = {
    "xquad": _question_answering,
    "xquad_r": _question_answering,
    "mlqa_r": _question_answering,
    "belebele": belebele.read,
    "miracl": beir.read,
    "beir": beir.read,
    "tatoeba": bitext.read_with_english,
    "mkqa": bitext.read_with_english,
    "ntrex": bitext.read_ntrex,
    "flores": bitext.read_flores,
    "bucc": mining.read,
    "bli": words.read,
    "alignment": word_links.read,
    "xnli": classification.read_xnli,
    "paws_x": classification.read_paws_x,
}


def read(benchmark: Benchmark, folder: Path) -> Measured:
    """Read a benchmark's files; `folder` is the evaluation folder.

    Raises:
        BenchmarkMissing: a file is not there; the message names it and the knob.
        BenchmarkInvalid: the files contradict each other.
    """
    reader = READERS.get(benchmark.name)
    if reader is None:
        raise BenchmarkMissing(
            f"evaluation.benchmarks: {benchmark.name} has no reader; there are {', '.join(READERS)}"
        )
    return reader(benchmark, folder)


def texts(benchmark: Benchmark, folder: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of everything that the benchmark measures with, for the leak check."""
    return read(benchmark, folder).texts()


def lying_in(folder: Path) -> tuple[Benchmark, ...]:
    """Every benchmark of an evaluation folder: folders by name, and BEIR-like ones of any name.

    Raises:
        BenchmarkMissing: there is none.
    """
    if not folder.is_dir():
        raise BenchmarkMissing(f"{folder}: no such folder; see --data and evaluation.folder")
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.name in READERS:
            found.append(Benchmark.model_validate({"name": path.name}))
        elif beir.is_here(path):
            found.append(Benchmark(name="beir", path=path.name))
    if not found:
        raise BenchmarkMissing(
            f"{folder}: holds no benchmark; there are readers for {', '.join(READERS)}"
        )
    return tuple(found)


def named(spec: str, folder: Path) -> tuple[Benchmark, ...]:
    """`xquad,xquad_r:de+en,tldr`: names, or BEIR-like folders, each perhaps with its languages.

    Raises:
        BenchmarkMissing: neither a known name nor a BEIR-like folder.
    """
    found = []
    for part in spec.split(","):
        name, _, languages = part.strip().partition(":")
        chosen = tuple(tag for tag in languages.split("+") if tag)
        if name in READERS:
            found.append(Benchmark.model_validate({"name": name, "languages": chosen}))
        elif name and beir.is_here(folder / name):
            found.append(Benchmark(name="beir", path=name, languages=chosen))
        else:
            raise BenchmarkMissing(
                f"--benchmarks: {name!r} is none of {', '.join(READERS)}, and {folder / name} is"
                " no BEIR-like folder"
            )
    return tuple(found)

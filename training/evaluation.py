"""Runs benchmarks on anything that turns texts into unit vectors."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from training import benchmarks
from training.benchmarks.embedding import Embed, Memory
from training.benchmarks.retrieval import Retrieval
from training.benchmarks.tasks import sizes
from training.config.evaluation import Evaluation
from training.results import Cell, Results

LIBRARIES = ("ir_measures", "pytrec_eval-terrier", "numpy")


def evaluate(
    embed: Embed,
    folder: Path,
    evaluation: Evaluation,
    *,
    model: str,
    facts: Mapping[str, object] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Results:
    """Run every benchmark that is named; `folder` is the data folder, `facts` go into the results.

    `progress` is told the name of each benchmark before it runs.

    Raises:
        BenchmarkMissing, BenchmarkInvalid: its files are not there, or contradict each other.
        VectorsInvalid: the encoder's vectors are not finite or not of length 1.
    """
    memory = Memory(embed)
    cells: list[Cell] = []
    found: dict[str, object] = {}
    for benchmark in evaluation.benchmarks:
        progress(benchmark.label)
        measured = benchmarks.read(benchmark, folder / evaluation.folder)
        if isinstance(measured, Retrieval):
            counts = {tag: len(own.ids) for tag, own in measured.candidates.items()}
            found[benchmark.label] = sizes(benchmark.name, counts)
        cells += measured.cells(memory)
        memory.forget()
    known = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmarks": [one.model_dump(mode="json") for one in evaluation.benchmarks],
        "sizes": found,
        "libraries": {name: version(name) for name in LIBRARIES},
        **(facts or {}),
    }
    return Results(model, tuple(cells), known)

"""Settings of `training.benchmarks`: what is measured, and on which files of the data folder."""

from typing import Literal, Self, TypeAlias

from pydantic import model_validator

from training.config.strict import Count, Strict

BenchmarkName: TypeAlias = Literal[
    "xquad", "xquad_r", "mlqa_r", "belebele", "miracl", "tatoeba", "ntrex", "flores", "mkqa",
    "bli", "alignment", "bucc", "xnli", "paws_x", "beir",
]  # fmt: skip

OWN_OPTIONS: dict[str, frozenset[str]] = {
    "unit": frozenset({"xquad_r", "mlqa_r"}),
    "pairs": frozenset({"ntrex", "flores", "belebele"}),
    "split": frozenset({"flores", "miracl", "beir", "bucc"}),
    "training_rows": frozenset({"xnli", "paws_x"}),
}
"""Which benchmarks have an option; any other one that names it is refused."""


class Benchmark(Strict):
    """One set of files."""

    name: BenchmarkName
    path: str | None = None
    """Below the evaluation folder; its own name if not given."""
    languages: tuple[str, ...] = ()
    """Only these; empty means all that lie there. English is always among them."""
    unit: Literal["sentence", "sentence_in_passage"] = "sentence"
    """What is embedded of a candidate: the sentence, or the sentence before its whole passage."""
    pairs: Literal["english", "all"] = "english"
    """Each language with English, or every two; each in both directions, beside the language
    with itself where that is a task."""
    split: str | None = None
    """The part of the data that is measured, where the files have several."""
    training_rows: Count | None = None
    """The English head is trained on so many pairs, the first ones; all if not given."""

    @model_validator(mode="after")
    def _options_are_its_own(self) -> Self:
        for option, owners in OWN_OPTIONS.items():
            default = type(self).model_fields[option].default
            if getattr(self, option) != default and self.name not in owners:
                raise ValueError(
                    f"{self.name} has no {option}; only {', '.join(sorted(owners))} have"
                )
        return self

    @property
    def place(self) -> str:
        """The folder of its files, below the evaluation folder."""
        return self.path or self.name

    @property
    def label(self) -> str:
        """What it is called in results; one folder may be measured by both units."""
        return f"{self.place}+passage" if self.unit == "sentence_in_passage" else self.place


class Evaluation(Strict):
    """Benchmarks that run during and after training."""

    folder: str = "eval"
    """Below the data folder."""
    benchmarks: tuple[Benchmark, ...] = ()

    @model_validator(mode="after")
    def _no_set_twice(self) -> Self:
        labels = [benchmark.label for benchmark in self.benchmarks]
        if len(set(labels)) < len(labels):
            raise ValueError(f"evaluation.benchmarks: a set is named twice: {', '.join(labels)}")
        return self

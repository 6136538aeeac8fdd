"""The files that a run reads beside its data sets, by their content, so that a resumed run knows them.

Tables of words for perturbers and aligners, and the benchmarks: nothing in the corpus shows when
these have changed.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from training.alignment.aligner import files_of
from training.config.batches import Translation, Words
from training.config.methods import Ear, Synonyms
from training.config.recipe import Recipe
from training.corpus import Corpus


def files_read(recipe: Recipe, corpus: Corpus, folder: Path) -> dict[str, str]:
    """The sha256 of each file by its name, below the data folder where it lies there.

    Files that are not there are left out: whatever reads them says so, and a language of the
    corpus without pairs needs none.
    """
    found = {*_of_stages(recipe, corpus, folder), *_of_benchmarks(recipe, folder)}
    digests = {}
    for path in sorted(path for path in found if path.is_file()):
        name = path.relative_to(folder) if path.is_relative_to(folder) else path
        with path.open("rb") as file:
            digests[str(name)] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _of_stages(recipe: Recipe, corpus: Corpus, folder: Path) -> Iterator[Path]:
    for stage in recipe.stage:
        for method in stage.methods:
            if isinstance(method, Ear) and isinstance(method.perturber, Synonyms):
                yield folder / method.perturber.path
        for batches in stage.batches:
            if isinstance(batches, Words | Translation):
                for language in batches.languages or corpus.languages:
                    if language != batches.pivot:
                        yield from files_of(
                            batches.aligner,
                            source=batches.pivot,
                            target=language,
                            data_folder=folder,
                        )


def _of_benchmarks(recipe: Recipe, folder: Path) -> Iterator[Path]:
    for benchmark in recipe.evaluation.benchmarks:
        place = folder / recipe.evaluation.folder / benchmark.place
        yield from (path for path in place.rglob("*") if not path.name.startswith("."))

"""The one data set of a recipe that is mined, as the recipe's runs would read it."""

from pathlib import Path

from training.config.data import Cloze, Joined
from training.config.recipe import Recipe
from training.corpus import Corpus
from training.data import read_corpus
from training.mining.pool import MiningImpossible


def read_mined(folder: Path, recipe: Recipe, name: str) -> Corpus:
    """Read one set with the recipe's filters and its check for leaks.

    Nothing is held out, and all languages are kept: what is written is read by a recipe again,
    which does both.

    Raises:
        MiningImpossible: the recipe has no such set, or makes it of another one.
        DataInvalid: as `training.data` says.
    """
    sets = recipe.data.sets
    if name not in sets:
        raise MiningImpossible(
            f"--set {name}: the recipe {recipe.name!r} has only the data sets {', '.join(sets)}"
        )
    if isinstance(chosen := sets[name], Joined | Cloze):
        raise MiningImpossible(
            f"--set {name}: it is made of {chosen.of!r} anew in each run, so that its groups cannot"
            " be named; mine a set that is read from files"
        )
    alone = {"sets": {name: chosen}, "languages": (), "held_out_share": 0.0}
    data = recipe.data.model_copy(update=alone)
    return read_corpus(folder, recipe.model_copy(update={"data": data}))

"""The bundle of a run: its best weights if it kept some, measured on the pairs it held out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.checkpoint import RunFolder, Weights
from training.config.batches import ENGLISH
from training.config.recipe import Recipe
from training.corpus import HeldOut
from training.export.bundle import write
from training.export.golden import golden_of
from training.export.graph import ExportFailed
from training.export.order import Choices, Order, Sealed, made_now
from training.export.probes import built_in, read_pairs
from training.pretrained import Pretrained, open_run
from training.results import Results

DEFAULT = Choices()


def export_run(
    run: Path,
    out: Path,
    choices: Choices = DEFAULT,
    *,
    weights: Weights = "auto",
    probes: Path | None = None,
    language_texts: Path | None = None,
    golden: int | None = None,
) -> Sealed:
    """Write the bundle of a run; `auto` takes its best weights if there are any, else the last.

    `probes` and `language_texts` are files as `training.export.probes` reads them: texts to check
    the bundle on instead of the held-out ones, and texts for the languages' mean vectors. A run
    that has no translations to hold out is checked on three sentences a language. `golden` is the
    number of golden queries of a language, instead of the recipe's.

    Raises:
        ExportFailed: the folder is not a run's, or what `training.export.bundle.write` refuses.
        ModelMissing: there are no such weights.
    """
    model = open_run(run, weights)
    recipe = Recipe.model_validate_json((run / "recipe.json").read_text("utf-8"))
    if not choices.precisions:
        choices = replace(choices, precisions=recipe.export.precisions)
    most = recipe.export.golden if golden is None else golden
    held_out = _held_out(run / "held_out.jsonl") if probes is None or most else []
    pairs = held_out if probes is None else read_pairs(probes)
    languages = {pair.language for pair in pairs}
    if not pairs:
        languages = _trained(RunFolder(run), recipe)
        pairs = built_in(sorted(languages))
    order = Order(
        model=model,
        name=recipe.name,
        version=recipe.version,
        languages=sorted({ENGLISH, *languages}),
        pairs=pairs,
        limits=recipe.variants,
        provenance={
            "base_model": _base(recipe, model),
            "recipe": recipe.model_dump(mode="json"),
            "data": json.loads((run / "sources.json").read_text("utf-8")),
            "licence": recipe.licence,
            **made_now(),
        },
        evaluation={
            "weights": model.weights,
            **_scores(run / "scores.json"),
            **_leaks(RunFolder(run).leaks),
        },
        widths=recipe.stage[-1].matryoshka,
        centroid_pairs=read_pairs(language_texts) if language_texts is not None else (),
        golden=golden_of(held_out, most=most, seed=recipe.seed),
    )
    return write(out, order, choices)


def _held_out(path: Path) -> list[HeldOut]:
    if not path.is_file():
        raise ExportFailed(
            f"{path} is missing, and with it the held-out texts to check the bundle on: name the folder"
            " of a run of isogloss-train train"
        )
    # Not `splitlines`: a text may hold a character at which that cuts, e.g. U+2028.
    with path.open(encoding="utf-8") as file:
        return [HeldOut(**json.loads(line)) for line in file]


def _trained(run: RunFolder, recipe: Recipe) -> set[str]:
    """The languages of the training text."""
    if not run.data.is_file():
        return {ENGLISH, *recipe.data.languages}
    sets = json.loads(run.data.read_text("utf-8"))["sets"].values()
    return {ENGLISH, *(code for one in sets for role in one["texts"].values() for code in role)}


def _base(recipe: Recipe, model: Pretrained) -> str:
    if recipe.start is not None:
        return model.base
    teacher = "" if recipe.teacher is None else f", taught by {recipe.teacher.model}"
    return f"trained from scratch{teacher}"


def _scores(path: Path) -> dict[str, Mapping[str, Any]]:
    """Averages, and the main metric of every cell under its name."""
    if not path.is_file():
        return {}
    results = Results.read(path)
    cells = {
        cell.name: {"metric": metric, "value": round(value, 2), "count": cell.count}
        for cell in results.cells
        for metric, value in list(cell.metrics.items())[:1]
    }
    return {"scores": results.summary(), "cells": cells}


def _leaks(path: Path) -> dict[str, Mapping[str, Any]]:
    """How many texts were looked for in the training text, and how many were found."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text("utf-8"))
    return {"leaks": {name: found[name] for name in ("handling", "checked", "texts")}}

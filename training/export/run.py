"""The bundle of a run: its best checkpoint if it kept one, measured on the pairs it held out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from training.checkpoint import RunFolder
from training.config.batches import ENGLISH
from training.config.recipe import Recipe
from training.corpus import HeldOut
from training.export.bundle import write
from training.export.graph import ExportFailed
from training.export.order import Choices, Order, Sealed, made_now
from training.export.probes import built_in, read_pairs
from training.pretrained import Pretrained, Which, open_run
from training.results import Results

Wanted: TypeAlias = Literal["auto", "best", "checkpoint"]
DEFAULT = Choices()


def export_run(
    run: Path,
    out: Path,
    choices: Choices = DEFAULT,
    *,
    which: Wanted = "auto",
    probes: Path | None = None,
    language_texts: Path | None = None,
) -> Sealed:
    """Write the bundle of a run; `auto` takes the best checkpoint if there is one, else the last.

    `probes` and `language_texts` are files as `training.export.probes` reads them: texts to check
    the bundle on instead of the held-out ones, and texts for the languages' mean vectors. A run
    that has no translations to hold out is checked on three sentences a language.

    Raises:
        ExportFailed: the folder is not a run's, or what `training.export.bundle.write` refuses.
        ModelMissing: there is no such checkpoint.
    """
    best = which == "best" or (which == "auto" and (run / "best").is_dir())
    chosen: Which = "best" if best else "checkpoint"
    model = open_run(run, chosen)
    recipe = Recipe.model_validate_json((run / "recipe.json").read_text("utf-8"))
    pairs = _held_out(run / "held_out.jsonl") if probes is None else read_pairs(probes)
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
        evaluation={"weights": chosen, **_scores(run / "scores.json")},
        widths=recipe.stage[-1].matryoshka,
        centroid_pairs=read_pairs(language_texts) if language_texts is not None else (),
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

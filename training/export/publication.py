"""What is published of a folder: the bundle that it is, or the one of the run that it holds."""

import shutil
from collections.abc import Callable
from pathlib import Path

from service.bundle import Bundle, write_bundle
from service.manifest import MANIFEST, Declaration
from training.checkpoint import CheckpointMismatch, RunFolder
from training.config.recipe import Recipe
from training.export.card import retitled
from training.export.graph import ExportFailed
from training.export.order import Sealed
from training.export.run import export_run
from training.pretrained import CARD

BUNDLE = "bundle"
"""Where a run keeps its own, as `isogloss-train train` writes it."""


def published(folder: Path, *, exported: Callable[[Sealed], None]) -> Bundle:
    """The bundle of a folder; that of a run is exported first where it is missing or out of date.

    `exported` is told of a bundle that had to be made.

    Raises:
        ExportFailed: neither a bundle nor a run, or a run that is not finished.
        BundleInvalid: the bundle breaks the contract.
    """
    if (folder / MANIFEST).is_file():
        return Bundle.open(folder)
    run = RunFolder(folder)
    if not run.recipe.is_file():
        raise ExportFailed(f"{folder} is neither a bundle nor a run: no {MANIFEST}, no recipe.json")
    weights = _weights(run)
    place = folder / BUNDLE
    if (place / MANIFEST).is_file():
        bundle = Bundle.open(place)
        graph = bundle.path(next(iter(bundle.manifest.precisions.values())))
        if graph.stat().st_mtime >= weights.stat().st_mtime:
            return bundle
    sealed = export_run(folder, place)
    exported(sealed)
    return sealed.bundle


def with_version(bundle: Bundle, version: str, folder: Path) -> Bundle:
    """A copy of a bundle in an empty folder that differs in its version, also in its card.

    Raises:
        BundleInvalid: the version is no name of a folder.
    """
    manifest = bundle.manifest
    for name in manifest.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)
    if CARD in manifest.files:
        card = (folder / CARD).read_text("utf-8")
        renamed = retitled(card, manifest.name, before=manifest.version, after=version)
        (folder / CARD).write_text(renamed, "utf-8")
    stated = {name: getattr(manifest, name) for name in Declaration.model_fields}
    return write_bundle(folder, **stated | {"version": version})


def _weights(run: RunFolder) -> Path:
    """Those that an export takes, of a run that is over."""
    recipe = Recipe.model_validate_json(run.recipe.read_text("utf-8"))
    try:
        progress = run.checkpoint.progress
    except CheckpointMismatch as error:
        raise ExportFailed(f"{run.path} is no finished run: {error}") from error
    if not progress.ended and progress.step < recipe.steps:
        raise ExportFailed(
            f"{run.path} is not finished, {progress.step} of {recipe.steps} steps are done: go on"
            " with --resume, or export it as it is and publish that bundle"
        )
    _, kept = run.kept("auto")
    return kept.weights

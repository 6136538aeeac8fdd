"""`isogloss-train publish`: a run's bundle into a registry, and into the service that reads it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.progress import Progress

from service.bundle import Bundle
from service.manifest import SAFE_NAME
from service.placing import VersionTaken, place_bundle
from training.commands.activation import Activation, Migration, failed_checks
from training.commands.bundles import show
from training.commands.terminal import ApiKey, console, hush


def publish(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_BUNDLE",
            help="A finished run, exported first if it has no bundle of its latest weights, or a"
            " bundle.",
            exists=True,
            file_okay=False,
        ),
    ],
    registry: Annotated[
        Path,
        typer.Option(
            help="The folder of bundles that the service reads, its ISOGLOSS_MODELS_DIR.",
            exists=True,
            file_okay=False,
        ),
    ],
    activate: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Make the service at this address go over to it."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="The graph to serve: fp32, fp16 or int8.", show_default="the service decides"
        ),
    ] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Build and prove it, but wait to be cut over.")
    ] = False,
    version: Annotated[
        str | None, typer.Option(help="Publish it as this version.", show_default="the bundle's")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the service until it is done.")
    ] = True,
    api_key: ApiKey = None,
) -> None:
    """Put a bundle into a registry, whole or not at all, and perhaps make a service go over to it.

    Publishing the same bundle again changes nothing; a version that is there with other content is
    refused. With --activate the exit code is 0 once searches are answered from it (or, with --hold,
    once they could be), and 1 if the service's gate refused it.
    """
    from training.export.publication import published

    hush()
    alone = {"--precision": precision is not None, "--hold": hold, "--no-wait": not wait}
    if activate is None and (names := [name for name, given in alone.items() if given]):
        raise typer.BadParameter("only with --activate", param_hint=names[0])
    if version is not None and not SAFE_NAME.fullmatch(version):
        raise typer.BadParameter(f"{version!r} is no version, e.g. 1.0.1", param_hint="--version")
    bundle = published(folder, exported=show)
    there = bundle.manifest.precisions
    if precision is not None and precision not in there:
        raise typer.BadParameter(
            f"{precision!r} is none of the bundle's: {', '.join(there)}", param_hint="--precision"
        )
    placed = _placed(bundle, registry, version or bundle.manifest.version)
    name = f"{placed.manifest.name}/{placed.manifest.version}"
    _say(f"{name} is in {registry}")
    if activate is None:
        return
    activation = Activation.at(activate, api_key=api_key)
    try:
        migration = activation.begin(placed, precision=precision, hold=hold)
        _say(f"{name}: {activate.rstrip('/')}/migrations/{migration['generation']}")
        if wait:
            _judge(name, _followed(activation, migration))
    finally:
        activation.close()


def _placed(bundle: Bundle, registry: Path, version: str) -> Bundle:
    """The bundle in the registry, as this version."""
    from training.export.publication import with_version

    try:
        if version == bundle.manifest.version:
            return place_bundle(bundle.folder, registry)
        with TemporaryDirectory() as folder:
            return place_bundle(with_version(bundle, version, Path(folder)).folder, registry)
    except VersionTaken as error:
        raise ValueError(f"{error.detail}: publish it with --version {error.free}") from error


def _followed(activation: Activation, migration: Migration) -> Migration:
    """The migration at its end, its way there on the terminal."""
    last, state = migration, ""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        for last in activation.follow(migration):
            now = "paused" if last["paused"] else str(last["state"])
            if now != state:
                bar.console.print(now, highlight=False)
                state = now
            total = last["total"] or None
            bar.update(task, description=now, completed=last["applied"], total=total)
    return last


def _judge(name: str, migration: Migration) -> None:
    """Say how it ended; exit with 1 unless that is what was asked for."""
    number, state = migration["generation"], migration["state"]
    if state == "active":
        until = migration.get("soak_until")
        back = f"; until {until}: isogloss migrate rollback {number}" if until else ""
        _say(f"{name} is live: generation {number}, epoch {migration['epoch']}{back}")
        return
    if state == "ready":
        _say(f"{name} is ready: isogloss migrate cut-over {number}")
        return
    for found in failed_checks(migration):
        console.print(found, soft_wrap=True)
    if state == "soaking":
        raise RuntimeError(f"{name} was live, and the service has gone back to what was before")
    raise RuntimeError(
        f"{name} is not live, generation {number} is {state}: {migration['error'] or 'no reason'}"
    )


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)

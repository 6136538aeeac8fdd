"""`isogloss migrate`: from one encoder to the next while searches go on, as an operator does it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeAlias

import typer

from service.client import FINISHED, Client, Migration
from service.commands.following import follow
from service.commands.migration_tables import show_all, show_one
from service.commands.models import Reference, resolve
from service.commands.sentences import UNDER_WAY, held, lives, name_of, passed_by, said, soak_left_s
from service.commands.terminal import LOCAL, AsJson, Url, console, duration, say
from service.errors import NotFound
from service.manifest import Precision
from service.types import MigrationStep

migrate = typer.Typer(
    help="Go from one encoder to the next while searches go on: start, watch, and take it back.",
    no_args_is_help=True,
)

AFTERWARDS: Sequence[MigrationStep] = ("rollback", "finish")
"""Steps of a migration that is live already."""

Wanted: TypeAlias = Callable[[Migration], bool]
DONE: Mapping[MigrationStep, Wanted] = {
    "pause": lambda migration: bool(migration["paused"]),
    "resume": lambda migration: not migration["paused"],
    "abort": lambda migration: migration["state"] in FINISHED,
    "cut-over": lives,
    "rollback": lambda migration: not lives(migration),
    "finish": lambda migration: migration["soak_until"] is None,
}
"""What a migration is like when a step has been taken."""

Id = Annotated[
    int | None,
    typer.Argument(
        metavar="ID",
        min=1,
        help="Number of the migration; otherwise the one that is under way, or that soaks.",
    ),
]
IfEpoch = Annotated[
    int | None,
    typer.Option(min=0, help="Only if the route is still at this epoch, as `status` showed it."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is done.")]


@migrate.command()
def start(
    bundle: Reference,
    precision: Annotated[
        Precision | None, typer.Option(help="Variant of the bundle, if it has several.")
    ] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Stay ready, and cut over only when told to.")
    ] = False,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Change queries and passages at one moment, even if its queries find the live passages.",
        ),
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="A check of the gate that may fail; needs --reason."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why it may fail; it is kept.")] = "",
    rate: Annotated[
        float | None, typer.Option(min=0, help="Embed at most so many passages a second.")
    ] = None,
    soak_s: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds in which it can be taken back at once."),
    ] = None,
    no_wait: NoWait = False,
    if_epoch: IfEpoch = None,
    url: Url = LOCAL,
) -> None:
    """Index everything anew by a bundle beside the live one, prove it, and make it live.

    What is live answers until then, and stays if anything fails.

    Ctrl-C ends the watching, not the migration.
    """
    if override and not reason.strip():
        raise typer.BadParameter("say with --reason why a check may fail", param_hint="--override")
    asked = {
        "precision": precision,
        "hold": hold,
        "queries_first": not together,
        "override": override or [],
        "reason": reason,
        "passages_per_s": rate,
        "soak_s": soak_s,
    }
    with Client(url) as client:
        name, version = resolve(client, bundle)
        begun = client.post(
            f"/models/{name}/{version}/activate", asked, headers=_condition(if_epoch)
        )
        if no_wait:
            say(f"{said(begun)}; `isogloss migrate watch {begun['generation']}` shows how it goes")
            return
        number = begun["generation"]
        _end(follow(client, number, until=lambda each: held(each) or passed_by(each)))


@migrate.command()
def status(
    generation: Annotated[
        int | None,
        typer.Argument(metavar="ID", min=1, help="Number of a migration; otherwise all of them."),
    ] = None,
    as_json: AsJson = False,
    url: Url = LOCAL,
) -> None:
    """Show all migrations; with an ID, all of one: collections, pods, and what the gate found."""
    with Client(url) as client:
        path = "/migrations" if generation is None else f"/migrations/{generation}"
        answer = client.get(path)
    if as_json:
        console.print_json(json.dumps(answer))
    elif generation is None:
        show_all(answer["migrations"])
    else:
        show_one(answer)


@migrate.command()
def watch(generation: Id = None, url: Url = LOCAL) -> None:
    """Watch a migration until nothing happens any more, its soak included."""
    with Client(url) as client:
        number = generation or _chosen(client, _under_way, _soaking)
        _end(follow(client, number, until=lambda _: False))


@migrate.command()
def pause(
    generation: Id = None, no_wait: NoWait = False, if_epoch: IfEpoch = None, url: Url = LOCAL
) -> None:
    """Hold the work where it is; searches and writes go on."""
    _take("pause", generation, no_wait=no_wait, if_epoch=if_epoch, url=url)


@migrate.command()
def resume(
    generation: Id = None, no_wait: NoWait = False, if_epoch: IfEpoch = None, url: Url = LOCAL
) -> None:
    """Let paused work go on."""
    _take("resume", generation, no_wait=no_wait, if_epoch=if_epoch, url=url)


@migrate.command()
def abort(
    generation: Id = None, no_wait: NoWait = False, if_epoch: IfEpoch = None, url: Url = LOCAL
) -> None:
    """Give it up, and delete what it made; what is live stays live."""
    _take("abort", generation, no_wait=no_wait, if_epoch=if_epoch, url=url)


@migrate.command("cut-over")
def cut_over(
    generation: Id = None, no_wait: NoWait = False, if_epoch: IfEpoch = None, url: Url = LOCAL
) -> None:
    """Make a migration the live one as soon as it is ready."""
    _take("cut-over", generation, no_wait=no_wait, if_epoch=if_epoch, url=url)


@migrate.command()
def rollback(
    generation: Id = None, no_wait: NoWait = False, if_epoch: IfEpoch = None, url: Url = LOCAL
) -> None:
    """Take it back while it soaks: what was live before is live again."""
    _take("rollback", generation, no_wait=no_wait, if_epoch=if_epoch, url=url)


@migrate.command()
def finish(
    generation: Id = None, no_wait: NoWait = False, if_epoch: IfEpoch = None, url: Url = LOCAL
) -> None:
    """End the soak: what was live before is deleted, and cannot be gone back to at once."""
    _take("finish", generation, no_wait=no_wait, if_epoch=if_epoch, url=url)


def _take(
    step: MigrationStep, generation: int | None, *, no_wait: bool, if_epoch: int | None, url: str
) -> None:
    done = DONE[step]
    with Client(url) as client:
        number = generation or _chosen(client, _soaking if step in AFTERWARDS else _under_way)
        path = f"/migrations/{number}/{step}"
        migration = client.post(path, headers=_condition(if_epoch))
        if not no_wait and not done(migration):
            migration = follow(
                client, number, until=lambda each: done(each) or each["state"] in FINISHED
            )
        if step == "rollback" and done(migration):
            say(_taken_back(client, migration))
        elif done(migration) or no_wait:
            say(said(migration))
        else:
            _end(migration)


def _taken_back(client: Client, migration: Migration) -> str:
    """What is live again, and that it is not for good."""
    sentence = f"taken back: {name_of(migration)}"
    for each in client.get("/migrations")["migrations"]:
        if lives(each):
            sentence = f"live again: {name_of(each)}, epoch {each['epoch']}"
    left = soak_left_s(migration)
    if left is None:
        return sentence
    return f"{sentence}; {name_of(migration)} can be gone back to for {duration(left)}"


def _end(migration: Migration) -> None:
    """Say how a migration ended; the exit code is 1 if it ended otherwise than wanted."""
    wanted = lives(migration) or held(migration) or migration["state"] == "retired"
    say(said(migration), style="green" if wanted else "red")
    if not wanted:
        report = migration["report"]
        failed = [each for each in report["checks"] if not each["ok"]] if report else []
        passable = [each["name"] for each in failed if each["overridable"]]
        if failed and len(passable) == len(failed):
            options = " ".join(f"--override {name}" for name in passable)
            say(f"if that is as it should be: `isogloss migrate start … {options} --reason WHY`")
        raise typer.Exit(1)


def _chosen(client: Client, *kinds: Wanted) -> int:
    """The one migration that a command without a number means."""
    listed: list[Migration] = client.get("/migrations")["migrations"]
    for migration in listed:
        if any(kind(migration) for kind in kinds):
            return int(migration["generation"])
    what = " or ".join("soaks" if kind is _soaking else "is under way" for kind in kinds)
    last = ""
    if listed:
        number, state = listed[0]["generation"], listed[0]["state"]
        last = f"; the last one, {number} ({name_of(listed[0])}), is {state}"
    raise NotFound(f"no migration {what}{last}")


def _soaking(migration: Migration) -> bool:
    return bool(migration["live"] and migration["soak_until"] is not None)


def _under_way(migration: Migration) -> bool:
    return migration["state"] in UNDER_WAY


def _condition(epoch: int | None) -> dict[str, str]:
    return {} if epoch is None else {"If-Match": f'"{epoch}"'}

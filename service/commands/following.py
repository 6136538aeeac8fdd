"""Shows a migration on the terminal while it goes on: a bar for each state, checks as they come."""

from collections.abc import Callable, Iterator
from contextlib import closing

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from service.client import FINISHED, Client, Migration
from service.commands.sentences import passed_by, progress_of, soak_left_s, state_of
from service.commands.terminal import console, duration, say

COUNTED = ("building", "catching_up")
GIVEN_UP = ("failed", "aborted")
INTERRUPTED = 130


def follow(client: Client, generation: int, *, until: Callable[[Migration], bool]) -> Migration:
    """Show the migration until it is as wanted, or at rest; returns it as it was seen last."""
    try:
        with (
            Progress(
                TextColumn("[bold]{task.description:<20}"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=console,
            ) as progress,
            closing(client.watch(generation)) as migrations,
        ):
            return _watched(migrations, _Screen(progress), until)
    except KeyboardInterrupt:
        say(f"it goes on without you; `isogloss migrate watch {generation}` shows it again")
        raise typer.Exit(INTERRUPTED) from None


def _watched(
    migrations: Iterator[Migration], screen: "_Screen", until: Callable[[Migration], bool]
) -> Migration:
    migration = next(migrations)
    if passed_by(migration) and migration["state"] not in GIVEN_UP:
        screen.know(migration)
    screen.show(migration)
    while not until(migration):
        following = next(migrations, None)
        if following is None:
            break
        migration = following
        screen.show(migration)
    screen.rest(migration)
    return migration


class _Screen:
    """What of the migration is on the terminal already."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._state = ""
        self._task: TaskID | None = None
        self._told: set[str] = set()

    def show(self, migration: Migration) -> None:
        if migration["state"] != self._state:
            self._enter(migration)
        if self._task is not None:
            counted = self._state in COUNTED
            self._progress.update(
                self._task,
                description=state_of(migration),
                numbers=_numbers(migration),
                total=migration["total"] if counted else None,
                completed=migration["applied"] if counted else 0,
            )
        for line in _news(migration):
            if line not in self._told:
                self._told.add(line)
                self._progress.console.print(line, soft_wrap=True)

    def know(self, migration: Migration) -> None:
        """Leave out what was told while it was under way."""
        self._told.update(_news(migration))

    def rest(self, migration: Migration) -> None:
        """Leave no bar moving behind a state in which nothing moves."""
        if not migration["paused"]:
            self._fill()

    def _enter(self, migration: Migration) -> None:
        """Fill the bar of the state before, unless that was given up, and begin the next one."""
        self._state = migration["state"]
        if self._state not in GIVEN_UP:
            self._fill()
        self._task = None
        if self._state not in FINISHED:
            self._task = self._progress.add_task(state_of(migration), total=None, numbers="")

    def _fill(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1, completed=1)


def _numbers(migration: Migration) -> str:
    left = soak_left_s(migration)
    if left is not None:
        what = "taken back" if migration["live"] else "gone back to"
        return f"can be {what} for {duration(left)}"
    return progress_of(migration) if migration["state"] in COUNTED else ""


def _news(migration: Migration) -> Iterator[str]:
    """Every line that is said once: what the gate found, and what is in the way."""
    report = migration["report"]
    for check in report["checks"] if report else ():
        overridden = check["name"] in report["overridden"]
        yield f"  {result(ok=check['ok'], overridden=overridden)} {escape(_finding(check))}"
    for collection in migration["collections"]:
        if collection["error"]:
            yield f"  [yellow]{escape(collection['name'])}:[/] {escape(collection['error'])}"
    for pod in migration["pods"]:
        if pod["refused"]:
            yield f"  [yellow]{escape(pod['id'])} cannot open it:[/] {escape(pod['refused'])}"
    if migration["error"] and migration["state"] != "failed":
        yield f"  [yellow]{escape(migration['error'])}[/]"


def result(*, ok: bool, overridden: bool) -> str:
    """How a check ended, coloured."""
    if ok:
        return "[green]passed[/]"
    return "[yellow]overridden[/]" if overridden else "[red]failed[/]"


def _finding(check: Migration) -> str:
    return f"{check['name']}: {check['detail']}" if check["detail"] else str(check["name"])

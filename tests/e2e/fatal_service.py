"""The service, made to kill itself right before or after one step takes effect.

    python -m tests.e2e.fatal_service cut_over:before serve

The service knows nothing of it: one method is wrapped from outside. Until the process gets SIGUSR1 it
serves, but opens no further generation and drives no migration, so that what the crash before left
can be looked at; the step counts from then on.
"""

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from service.__main__ import main as isogloss
from service.catalog.generations import Generations
from service.errors import Behind
from service.fleet import Fleet
from service.migration import Migrator
from service.vectors.edge import EdgeBackend, EdgeIndex

GO_ON = signal.SIGUSR1
WAIT_S = 0.02


@dataclass(frozen=True)
class Step:
    """A method, and which of its calls are meant."""

    owner: type
    method: str
    when: Callable[..., bool] = lambda *_, **__: True
    of_index: bool = False
    """The migrator is kept waiting, so that the index is met in the state `building`."""
    refused: bool = False
    """It happens only after a cut-over that was refused; the first one is."""


def moves(state: str) -> Step:
    return Step(Generations, "move", lambda _self, _number, to, **_: to == state)


def of_candidate(index: EdgeIndex, *_: Any) -> bool:
    """The first generation of a catalog is live; the second is the candidate."""
    return index.spec.name.startswith("g2-")


STEPS: Mapping[str, Step] = {
    "register": Step(Generations, "register"),
    "choose": Step(Generations, "choose", lambda *_, **options: "memory_bytes" in options),
    "find_compatible": Step(Generations, "choose", lambda *_, **options: "compatible" in options),
    "ask": Step(Generations, "ask"),
    "to_building": moves("building"),
    "create": Step(
        EdgeBackend, "create", lambda _, spec: spec.name.startswith("g2-"), of_index=True
    ),
    "apply": Step(EdgeIndex, "apply", of_candidate, of_index=True),
    "prove": Step(Generations, "prove", lambda _self, number, *_, **__: number == 2, of_index=True),
    "flush": Step(EdgeIndex, "flush", of_candidate, of_index=True),
    "advance": Step(
        Generations, "advance", lambda _self, number, *_, **__: number == 2, of_index=True
    ),
    "to_indexing": moves("indexing"),
    "to_catching_up": moves("catching_up"),
    "to_verifying": moves("verifying"),
    "judge": Step(Generations, "judge"),
    "to_ready": moves("ready"),
    "close_gate": Step(Generations, "close_gate"),
    "cut_over": Step(Generations, "cut_over"),
    "pointer": Step(Fleet, "_answer_from"),
    "open_gate": Step(Generations, "open_gate", refused=True),
    "retire": Step(Generations, "retire"),
    "drop": Step(EdgeBackend, "drop"),
    "to_retired": moves("retired"),
    "to_aborted": moves("aborted"),
    "to_failed": moves("failed"),
}
SIDES = ("before", "after")


def said(point: str) -> str:
    """What the log ends with when the process has reached its point."""
    return f"killed itself: {point}"


class Fate:
    """What is to happen to this process, and whether it may happen yet."""

    def __init__(self, point: str) -> None:
        name, self.side = point.split(":")
        if self.side not in SIDES:
            raise ValueError(f"{point!r}: a step and {' or '.join(SIDES)}")
        self.point, self.step = point, STEPS[name]
        self.gone_on = False

    def seal(self) -> None:
        signal.signal(GO_ON, self._go_on)
        self._delay(Fleet, "_try_to_bring_up", lambda: self.gone_on)
        self._delay(Migrator, "_turn", lambda: self.gone_on and not self.step.of_index)
        if self.step.refused:
            self._refuse_once()
        original = getattr(self.step.owner, self.step.method)
        wrap = self._fatal_async if inspect.iscoroutinefunction(original) else self._fatal
        setattr(self.step.owner, self.step.method, wrap(original))

    def _go_on(self, *_: object) -> None:
        self.gone_on = True

    def _fatal(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def fatal(*args: Any, **options: Any) -> Any:
            meant = self._meant(args, options)
            if meant and self.side == "before":
                self._die()
            result = original(*args, **options)
            if meant:
                self._die()
            return result

        return fatal

    def _fatal_async(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        async def fatal(*args: Any, **options: Any) -> Any:
            meant = self._meant(args, options)
            if meant and self.side == "before":
                self._die()
            result = await original(*args, **options)
            if meant:
                self._die()
            return result

        return fatal

    def _meant(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
        return self.gone_on and self.step.when(*args, **options)

    def _die(self) -> None:
        os.write(2, f"{said(self.point)}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def _refuse_once(self) -> None:
        original = Generations.cut_over

        def cut_over(*args: Any, **options: Any) -> Any:
            if self.gone_on:
                Generations.cut_over = original
                raise Behind("refused, so that the gate is opened again")
            return original(*args, **options)

        Generations.cut_over = cut_over

    @staticmethod
    def _delay(owner: type, method: str, may: Callable[[], bool]) -> None:
        original = getattr(owner, method)

        @wraps(original)
        async def delayed(*args: Any) -> Any:
            while not may():  # noqa: ASYNC110 - a signal tells, and it may come at any time
                await asyncio.sleep(WAIT_S)
            return await original(*args)

        setattr(owner, method, delayed)


def live(point: str | None, environ: Mapping[str, str], log: Path) -> None:
    """The same in a process that was forked: with these variables, and its output in a file."""
    os.environ.clear()
    os.environ.update(environ)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    run(point, ["serve"])


def run(point: str | None, arguments: list[str]) -> None:
    if point is not None:
        Fate(point).seal()
    sys.argv = ["isogloss", *arguments]
    isogloss()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])

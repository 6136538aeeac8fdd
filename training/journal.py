"""What a run tells while it works: progress bars, `metrics.jsonl`, and the trackers of the recipe."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

Track: TypeAlias = Callable[[dict[str, float], int], None]
"""Takes named values and the step that they are of."""


class Journal:
    """The training steps, on the terminal and on disk. Open it with `with`."""

    def __init__(
        self, metrics: Path, console: Console, *, track: Track, start: int, total: int
    ) -> None:
        """Continue the journal at step `start`: what was written of later steps is dropped."""
        self._console, self._track = console, track
        _forget(metrics, after=start)
        self._file = metrics.open("a", encoding="utf-8")
        self._bar = _bar(console)
        self._task = self._bar.add_task("training", total=total, completed=start)
        self._tokens, self._since = 0, time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._file.close()

    def step(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def losses(self, step: int, stage: str, values: Mapping[str, float], *, tokens: int) -> None:
        """Losses of a step; `tokens` are the word pieces since the last call, without padding."""
        now = time.perf_counter()
        speed = tokens / max(now - self._since, 1e-9)
        self._since = now
        self._bar.update(
            self._task,
            description=f"{stage} · loss {values['loss']:.4f} · {speed:,.0f} tokens/s",
        )
        self._write(step, "train", {**values, "tokens_per_second": round(speed)}, stage=stage)

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items())
        self._console.print(f"step {step}: {shown}")
        self._write(step, "evaluation", values)
        self._since = time.perf_counter()  # evaluating is no training time

    def _write(self, step: int, kind: str, values: Mapping[str, float], **more: str) -> None:
        self._file.write(json.dumps({"step": step, "kind": kind, **more, **values}) + "\n")
        self._file.flush()
        self._track({f"{kind}/{name}": value for name, value in values.items()}, step)


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for long work; yields what to call with the number of things done."""
    with _bar(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _forget(metrics: Path, *, after: int) -> None:
    """Drop the lines of steps that an interrupted run did beyond its last checkpoint."""
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= after:
                kept.append(f"{line}\n")
        except ValueError:
            continue  # cut short when the run was killed
    metrics.write_text("".join(kept), "utf-8")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )

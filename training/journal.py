"""What a run tells while it works: progress bars, `metrics.jsonl` and TensorBoard."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter


class Journal:
    """The training steps, on the terminal and on disk. Open it with `with`."""

    def __init__(
        self, metrics: Path, board: Path, console: Console, *, start: int, total: int
    ) -> None:
        self._console = console
        self._file = metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(board), purge_step=start or None)
        self._bar = _bar(console)
        self._task = self._bar.add_task("training", total=total, completed=start)
        self._tokens, self._since = 0, time.perf_counter()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._board.close()
        self._file.close()

    def step(self, step: int, tokens: int) -> None:
        """A step is done; `tokens` counts padding too, as the device does."""
        self._tokens += tokens
        self._bar.update(self._task, completed=step)

    def losses(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        now = time.perf_counter()
        speed = self._tokens / max(now - self._since, 1e-9)
        self._tokens, self._since = 0, now
        self._bar.update(
            self._task,
            description=f"{stage} · loss {values['loss']:.4f} · {speed:,.0f} tokens/s",
        )
        self._write(step, "train", {**values, "tokens_per_second": round(speed)}, stage=stage)

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items())
            self._console.print(f"step {step}: {shown}")
            self._write(step, "evaluation", values)
        self._since = time.perf_counter()  # evaluating is no training time

    def _write(self, step: int, kind: str, values: Mapping[str, float], **more: str) -> None:
        self._file.write(json.dumps({"step": step, "kind": kind, **more, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for long work; yields what to call with the number of things done."""
    with _bar(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )

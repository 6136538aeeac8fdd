"""The steps of a run over all its stages: logging, evaluating, stopping early, and saving, resumable."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from tokenizers import Tokenizer

from service.types import Matrix, Role
from training.checkpoint import Progress, RunFolder
from training.config.recipe import Recipe
from training.evaluation import evaluate
from training.journal import Journal
from training.model import embed
from training.pretrained import Pretrained
from training.results import Results
from training.trainer.processes import Processes, open_trackers
from training.trainer.stage import Material, StageRun, Step
from training.trainer.stopping import Stopper

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loop:
    """A run from where its checkpoint left it, or from its beginning."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        *,
        model: Pretrained,
        material: Material,
        processes: Processes,
        console: Console,
        fingerprints: Sequence[str],
        resume: bool,
        stop_after_steps: int | None,
    ) -> None:
        """Put the checkpoint's weights into the model, if the run goes on from one.

        `fingerprints` are of the recipe with no stage, with the first one, and so on.

        Raises:
            CheckpointMismatch: the checkpoint is of another recipe, data, or number of processes.
        """
        self._recipe, self._run, self._model = recipe, run, model
        self._material, self._processes, self._console = material, processes, console
        self._fingerprints = fingerprints
        self._progress = Progress(fingerprints[1], processes=processes.count)
        self._state = None
        if resume and run.checkpoint.exists:
            self._progress = run.checkpoint.progress
            self._state = run.checkpoint.load(
                model.encoder,
                recipe=fingerprints[self._progress.stage + 1],
                processes=processes.count,
            )
            console.print(f"resumed after step {self._progress.step}")
        rule, seen = recipe.stopping, self._progress.stopping
        self._stopper = None if rule is None else Stopper(rule, seen)
        self._end = recipe.steps
        if stop_after_steps is not None:
            self._end = min(self._end, self._progress.step + stop_after_steps)
        self._tokens = torch.zeros((), dtype=torch.int64, device=processes.device)

    def run(self) -> Results | None:
        """Train to the end; the scores of the run, or None if `stop_after_steps` cut it short."""
        start, total = self._progress.step, self._recipe.steps
        open_trackers(self._processes, self._recipe, folder=self._run.path, start=start)
        metrics = self._run.metrics if self._processes.is_main else Path(os.devnull)
        track = self._processes.accelerator.log
        try:
            with Journal(metrics, self._console, track=track, start=start, total=total) as journal:
                if self._stopper is not None and start == 0:
                    self._evaluate(journal)
                for number in range(self._progress.stage, len(self._recipe.stage)):
                    if not self._over:
                        self._run_stage(number, journal)
            return self._report()
        finally:
            self._processes.accelerator.end_training()

    @property
    def _over(self) -> bool:
        return bool(self._progress.ended) or self._progress.step >= self._end

    def _run_stage(self, number: int, journal: Journal) -> None:
        if self._progress.stage == number and self._progress.stage_step == self._steps(number):
            self._state = None  # the stage was complete: its heads and optimiser are not needed
            return
        running = StageRun(
            self._recipe,
            number,
            model=self._model,
            material=self._material,
            processes=self._processes,
        )
        for what, rows in running.left_out.items():
            self._console.print(f"stage {running.stage.name!r}: {rows:,} rows of {what} left out")
        first = 0
        if self._state is not None:
            running.restore(self._state, dict(self._progress.position))
            first, self._state = self._progress.stage_step, None
        for step in range(first, self._steps(number)):
            if self._over:
                return
            done = running.step(step)
            self._progress = replace(
                self._progress,
                recipe=self._fingerprints[number + 1],
                step=self._progress.step + 1,
                stage=number,
                stage_step=step + 1,
            )
            self._after(done, running, journal)

    def _after(self, done: Step, running: StageRun, journal: Journal) -> None:
        """Log, evaluate and save what is due after a step.

        Evaluating comes first: a checkpoint knows of all evaluations up to its step.
        """
        step, loop = self._progress.step, self._recipe.loop
        self._tokens += done.tokens
        border = self._progress.stage_step == running.stage.steps
        journal.step(step)
        if border or step == self._end or step % loop.log_every == 0:
            self._log(done, running.stage.name, journal)
        often = loop.evaluate_every
        if step == self._recipe.steps or (often is not None and step % often == 0):
            self._evaluate(journal)
        if border or self._over or step % loop.checkpoint_every == 0:
            self._save(running)

    def _log(self, done: Step, stage: str, journal: Journal) -> None:
        tokens = int(self._processes.total(self._tokens))
        self._tokens.zero_()
        values = {name: float(value) for name, value in done.parts.items()}
        journal.losses(self._progress.step, stage, values, tokens=tokens)

    def _save(self, running: StageRun) -> None:
        state = running.state()  # of all processes
        if self._processes.is_main:
            stopping = {} if self._stopper is None else self._stopper.state
            self._progress = replace(self._progress, position=running.position, stopping=stopping)
            self._run.checkpoint.save(self._model.encoder, state, self._progress)

    def _evaluate(self, journal: Journal) -> None:
        """Let the main process evaluate; all learn whether training is over."""
        ended = ""
        if self._processes.is_main:
            self._model.encoder.eval()
            with torch.random.fork_rng():  # the steps draw as if nothing had been evaluated
                results = evaluate(
                    _embedder(
                        self._model, PRECISIONS.get(self._processes.precision, torch.float32)
                    ),
                    self._material.data,
                    self._recipe.evaluation,
                    model=f"{self._recipe.name} {self._recipe.version}",
                )
            journal.scores(self._progress.step, results.summary())
            ended = self._judge(results)
        self._progress = replace(self._progress, ended=self._processes.agreed(ended))

    def _judge(self, results: Results) -> str:
        """Keep the scores, and with a rule for stopping the weights, if they are the best."""
        if self._stopper is None:
            results.write(self._run.scores)
            return ""
        if not self._model.encoder.body:
            return ""  # what is exported has the layers, and would not have these scores
        verdict = self._stopper.see(self._progress.step, results.summary())
        if verdict.best:
            self._run.best.save(self._model.encoder, None, self._progress)
            results.write(self._run.scores)
        return verdict.ended

    def _report(self) -> Results | None:
        step, total = self._progress.step, self._recipe.steps
        if not self._progress.ended and step < total:
            return None
        said = self._progress.ended or f"all {total} steps are done"
        best = "" if self._stopper is None else f"; {self._stopper.report()}, in {self._run.best}"
        self._console.print(said + best)
        results = Results.read(self._run.scores) if self._processes.is_main else None
        found: Results = self._processes.agreed(results)
        return found

    def _steps(self, number: int) -> int:
        return self._recipe.stage[number].steps


def _embedder(model: Pretrained, precision: torch.dtype) -> Callable[[Sequence[str], Role], Matrix]:
    """The model as it is now, in the precision that it is trained in."""
    tokenizer = Tokenizer.from_str(model.pieces.tokenizer.to_str())
    tokenizer.enable_truncation(model.max_tokens)

    def vectors(texts: Sequence[str], role: Role) -> Matrix:
        prompted = [model.prompts[role] + text for text in texts]
        return embed(
            model.encoder, tokenizer, prompted, padding_id=model.pieces.pad, precision=precision
        )

    return vectors

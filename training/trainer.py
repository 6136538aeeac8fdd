"""The training loop: data, vocabulary, teacher vectors, then the stages of a recipe, resumable.

*Why a loop of our own, for now*: the research recommends transformers' Trainer for what it brings
beyond a loop: DDP, gradient accumulation, plug-in trackers. This first recipe uses none of them. It
fits one device, its batches are cut out of a tensor that already lies there (the Trainer is built
around a collating DataLoader, which would starve so small a model), and resuming is bit-exact
without replaying the data. When several processes are wanted, this file is what the engine
replaces; samplers, methods, checkpoints and evaluation stay.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer
from torch import Tensor

from service.types import Matrix, Role
from training.checkpoint import Progress, RunFolder, restore_generators
from training.config import Distillation, InfoNce, Recipe, Stage
from training.data import NOTHING, Corpus, read_corpus
from training.evaluation import Scores, evaluate
from training.journal import Journal, progress
from training.methods import distillation, info_nce
from training.model import Device, SentenceEncoder, choose_device, embed, new_student
from training.reader import DataInvalid
from training.samplers import Batch, BatchSampler, View
from training.vocabulary import PAD, SPECIAL, TokenTable, token_table, tokenise, train_tokenizer

PADDING = SPECIAL.index(PAD)


class TrainingFailed(RuntimeError):
    """The run cannot go on; the message says why, and the last checkpoint is intact."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told beside its recipe."""

    data: Path
    out: Path
    cache: Path
    device: Device = "auto"
    resume: bool = False
    stop_after_steps: int | None = None


def run_recipe(recipe: Recipe, options: Options, console: Console) -> Scores | None:
    """Run a recipe; returns the final scores, or None if `stop_after_steps` cut it short.

    Raises:
        DataInvalid, BenchmarkMissing, ModelMissing, DeviceMissing: something is not there.
        CheckpointMismatch: the folder's checkpoint is of another recipe.
        TrainingFailed: a checkpoint is in the way, the precision cannot be had, a loss is NaN.
    """
    device, run = choose_device(options.device), RunFolder(options.out)
    precision = choose_precision(recipe, device)
    if run.checkpoint.exists and not options.resume:
        raise TrainingFailed(f"{run.path} holds a checkpoint: add --resume, or take another --out")
    run.path.mkdir(parents=True, exist_ok=True)
    run.recipe.write_text(recipe.model_dump_json(indent=1), "utf-8")
    console.print(f"[bold]{recipe.name} {recipe.version}[/]: {recipe.steps} steps on {device}")
    corpus = read_corpus(options.data, recipe)
    _check_sources(corpus, recipe)
    _keep_facts(corpus, run, console)
    tokenizer = _tokenizer(corpus, recipe, run, console)
    table = _tokenised(corpus, tokenizer, console).to(device)
    targets = None
    if any(isinstance(method, Distillation) for stage in recipe.stage for method in stage.methods):
        targets = _targets(corpus, recipe, options, console).to(device)
    torch.manual_seed(recipe.seed)
    student = new_student(
        recipe.student, vocabulary_size=tokenizer.get_vocab_size(), padding_id=PADDING
    ).to(device)
    loop = _Loop(recipe, options, _Model(student, tokenizer, precision), console)
    return loop.run(_Feed(corpus, table, targets), console)


def choose_precision(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The arithmetic of the encoder; losses and pooling are always float32."""
    wanted = recipe.loop.precision
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if wanted == "fp16" and device.type == "cpu":
        raise TrainingFailed("loop.precision = 'fp16' needs CUDA; on the CPU use fp32 or bf16")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[wanted]


def learning_rate(stage: Stage, step: int) -> float:
    """The rate of a stage's step (from 0): linear warm-up, then the schedule down to nothing."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    factors = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    return stage.learning_rate * factors[stage.schedule]


def batch_loss(stage: Stage, batch: Batch, left: Tensor, right: Tensor | None) -> dict[str, Tensor]:
    """The weighted parts of all methods of a stage, and their sum under `loss`."""
    parts: dict[str, Tensor] = {}
    for settings in stage.methods:
        match settings:
            case InfoNce():
                found = info_nce.loss(settings, batch, left, right)
            case Distillation():
                found = distillation.loss(settings, batch, left, right)
            case _:
                assert_never(settings)
        parts |= {
            f"{settings.method}_{name}": settings.weight * value for name, value in found.items()
        }
    parts["loss"] = torch.stack(list(parts.values())).sum()
    return parts


@dataclass(frozen=True, slots=True)
class _Model:
    """What is trained, and how it computes."""

    student: SentenceEncoder
    tokenizer: Tokenizer
    precision: torch.dtype


@dataclass(frozen=True, slots=True)
class _Feed:
    """What the steps eat: all on the device."""

    corpus: Corpus
    table: TokenTable
    targets: Tensor | None


class _Loop:
    """The steps of a run, and what they share."""

    def __init__(self, recipe: Recipe, options: Options, model: _Model, console: Console) -> None:
        self._recipe, self._options, self._model = recipe, options, model
        self._student, self._run = model.student, RunFolder(options.out)
        self._device = next(model.student.parameters()).device
        half = model.precision == torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=half)
        self._done = Progress(recipe.fingerprint())
        self._state: dict[str, Any] | None = None
        if options.resume and self._run.checkpoint.exists:
            self._state, self._done = self._run.checkpoint.load(
                model.student, recipe=self._done.recipe
            )
            console.print(f"resumed after step {self._done.step}")
        self._step, self._end = self._done.step, recipe.steps
        if options.stop_after_steps is not None:
            self._end = min(self._end, self._step + options.stop_after_steps)

    def run(self, feed: _Feed, console: Console) -> Scores | None:
        total, board = self._recipe.steps, self._run.path / "tensorboard"
        with Journal(self._run.metrics, board, console, start=self._step, total=total) as journal:
            for number in range(self._done.stage, len(self._recipe.stage)):
                if self._step < self._end:
                    self._run_stage(number, feed, journal)
            return self._evaluate(journal) if self._step == total else None

    def _run_stage(self, number: int, feed: _Feed, journal: Journal) -> None:
        stage = self._recipe.stage[number]
        sampler = BatchSampler(
            feed.corpus,
            feed.table,
            feed.targets,
            stage=stage,
            seed=[self._recipe.seed, number],
        )
        self._student.body = stage.body
        optimiser = torch.optim.AdamW(
            _decayed(self._student, stage.weight_decay),
            lr=stage.learning_rate,
            fused=self._device.type == "cuda",
        )
        start = self._resume(sampler, optimiser)
        loop = self._recipe.loop
        for step in range(start, min(stage.steps, start + self._end - self._step)):
            parts, tokens = self._one_step(stage, sampler.batch(step), optimiser, step)
            self._step += 1
            journal.step(self._step, tokens)
            last = self._step == self._end or step + 1 == stage.steps
            saving = last or self._step % loop.checkpoint_every == 0
            if saving or self._step % loop.log_every == 0:
                journal.losses(self._step, stage.name, _finite(parts, stage, self._step))
            if saving:
                self._save(number, step + 1, sampler, optimiser)
            every = loop.evaluate_every
            if every and self._step % every == 0 and self._step < self._recipe.steps:
                self._evaluate(journal)

    def _resume(self, sampler: BatchSampler, optimiser: torch.optim.Optimizer) -> int:
        """Continue where the checkpoint was, if there is one; the stage's step to go on with."""
        state, self._state = self._state, None
        if state is None:  # a new stage
            return 0
        sampler.seek(self._done.position)
        optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        restore_generators(state)
        return self._done.stage_step

    def _save(
        self, number: int, stage_step: int, sampler: BatchSampler, optimiser: torch.optim.Optimizer
    ) -> None:
        progress = Progress(self._done.recipe, self._step, number, stage_step, sampler.position)
        state = {"optimiser": optimiser.state_dict(), "scaler": self._scaler.state_dict()}
        self._run.checkpoint.save(self._student, state, progress)

    def _one_step(
        self, stage: Stage, batch: Batch, optimiser: torch.optim.Optimizer, step: int
    ) -> tuple[dict[str, Tensor], int]:
        rate = learning_rate(stage, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        self._student.train()
        left = self._encode(batch.left)
        right = None if batch.right is None else self._encode(batch.right)
        parts = batch_loss(stage, batch, left, right)
        optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(parts["loss"]).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(optimiser)
        norm = torch.nn.utils.clip_grad_norm_(
            self._student.parameters(), self._recipe.loop.max_gradient_norm
        )
        self._scaler.step(optimiser)
        self._scaler.update()
        tokens = batch.left.ids.numel() + (0 if batch.right is None else batch.right.ids.numel())
        found = {name: value.detach() for name, value in parts.items()}
        return {**found, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}, tokens

    def _encode(self, view: View) -> Tensor:
        precision = self._model.precision
        with torch.autocast(self._device.type, dtype=precision, enabled=precision != torch.float32):
            vectors: Tensor = self._student(view.ids, view.mask)
        return vectors.float()

    def _evaluate(self, journal: Journal) -> Scores:
        self._student.eval()

        def vectors(texts: Sequence[str], _role: Role) -> Matrix:
            return embed(self._student, self._model.tokenizer, texts, padding_id=PADDING)

        scores = evaluate(vectors, self._options.data / "eval", self._recipe.evaluation)
        report = {"step": self._step, **scores.as_json()}
        self._run.scores.write_text(json.dumps(report, indent=1), "utf-8")
        journal.scores(self._step, scores.summary())
        return scores


def _finite(parts: Mapping[str, Tensor], stage: Stage, step: int) -> dict[str, float]:
    values = {name: float(value) for name, value in parts.items()}
    if not math.isfinite(values["loss"]):
        raise TrainingFailed(
            f"step {step}: the loss is {values['loss']} ({values}); the last checkpoint is intact."
            f" Lower the learning_rate of stage {stage.name!r} ({stage.learning_rate}) or use fp32"
        )
    return values


def _decayed(student: SentenceEncoder, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and layer norms do not."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _check_sources(corpus: Corpus, recipe: Recipe) -> None:
    """A stage without rows must not be found out hours after the start."""
    for stage in recipe.stage:
        missing = [source for source in stage.data if not len(corpus.rows.get(source, ()))]
        if missing:
            raise DataInvalid(f"stage {stage.name!r}: the data has no rows of {', '.join(missing)}")


def _keep_facts(corpus: Corpus, run: RunFolder, console: Console) -> None:
    sources = {name: facts.as_json() for name, facts in corpus.reader.sources.items()}
    run.sources.write_text(json.dumps(sources, indent=1), "utf-8")
    with run.held_out.open("w", encoding="utf-8") as file:
        for pair in corpus.held_out:
            file.write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")
    counts = ", ".join(f"{len(rows):,} {source}" for source, rows in corpus.rows.items())
    console.print(f"{len(corpus.texts):,} texts in {len(corpus.languages)} languages: {counts}")
    if corpus.reader.refused:
        shown = "; ".join(corpus.reader.complaints)
        console.print(f"[yellow]{corpus.reader.refused} malformed rows left out:[/] {shown}")


def _tokenizer(corpus: Corpus, recipe: Recipe, run: RunFolder, console: Console) -> Tokenizer:
    """The run's own tokenizer, if it has one already; it is learned otherwise."""
    if run.tokenizer.is_file():
        return Tokenizer.from_file(str(run.tokenizer))
    console.print(f"learning {recipe.vocabulary.pieces:,} word pieces (minutes on few cores) …")
    tokenizer = train_tokenizer(
        corpus, recipe.vocabulary, seed=recipe.seed, max_tokens=recipe.student.max_tokens
    )
    tokenizer.save(str(run.tokenizer))
    return tokenizer


def _tokenised(corpus: Corpus, tokenizer: Tokenizer, console: Console) -> TokenTable:
    pieces = []
    with progress(console, "tokenising", len(corpus.texts)) as advance:
        for row in tokenise(tokenizer, corpus.texts):
            pieces.append(row)
            advance(1)
    return token_table(pieces, padding_id=PADDING)


def _targets(corpus: Corpus, recipe: Recipe, options: Options, console: Console) -> Tensor:
    """Teacher vectors by target; those that no stage distils stay zero, and cost nothing."""
    distilled = {
        source
        for stage in recipe.stage
        if any(isinstance(method, Distillation) for method in stage.methods)
        for source in stage.data
    }
    sides = [
        side
        for source in sorted(distilled)
        for side in (corpus.rows[source].left_target, corpus.rows[source].right_target)
    ]
    needed = np.unique(np.concatenate(sides))
    texts_taught = len(corpus.taught)
    mixed = needed[needed >= texts_taught]
    parts = [corpus.mixtures[target - texts_taught] for target in mixed.tolist()]
    alone = needed[(needed != NOTHING) & (needed < texts_taught)]
    encoded = np.unique(np.concatenate([alone, *(np.array(part) for part in parts)]))
    shape = texts_taught + len(corpus.mixtures), recipe.student.hidden
    targets = np.zeros(shape, dtype=np.float16)
    texts = [corpus.texts[text] for text in corpus.taught[encoded].tolist()]
    with progress(console, "teacher", len(texts)) as advance:
        targets[encoded] = distillation.teacher_vectors(
            recipe.teacher,
            texts,
            dimension=recipe.student.hidden,
            cache=options.cache,
            device=choose_device(options.device),
            progress=advance,
        )
    if parts:
        targets[mixed] = distillation.mixtures(targets, parts)
    return torch.from_numpy(targets)

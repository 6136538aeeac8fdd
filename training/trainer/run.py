"""A run from its recipe: data, encoder and teacher vectors are made ready, then the stages are trained."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from training.checkpoint import CheckpointMismatch, RunFolder
from training.config.recipe import Recipe
from training.corpus import Corpus
from training.data import read_corpus
from training.mlm import carry_head
from training.model import Device, new_student
from training.pretrained import Pretrained, open_pretrained, save_pretrained
from training.results import Results
from training.trainer.graft.encoder import graft
from training.trainer.inputs import files_read
from training.trainer.loop import Loop
from training.trainer.processes import TrainingFailed, open_processes
from training.trainer.stage import Material
from training.trainer.teaching import target_vectors
from training.vocabulary import Pieces, train_tokenizer

SHOWN = 5
"""Changed files that an error names."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told beside its recipe."""

    data: Path
    out: Path
    cache: Path
    device: Device = "auto"
    resume: bool = False
    stop_after_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    results: Results | None
    """The scores; None if `stop_after_steps` cut it short."""
    writes: bool = True
    """Whether this process is the one that writes what is made of the run."""


def run_recipe(recipe: Recipe, options: Options, console: Console) -> Outcome:
    """Run a recipe, or what is left of it.

    Raises:
        DataInvalid, BenchmarkMissing, ModelMissing, DeviceMissing: something is not there.
        CheckpointMismatch: the folder's checkpoint is of another recipe or other data.
        CheckpointFailed: the disk is full.
        TrainingFailed: a checkpoint is in the way, the precision cannot be had, a loss is NaN.
    """
    run = RunFolder(options.out)
    if run.checkpoint.exists and not options.resume:
        raise TrainingFailed(f"{run.path} holds a checkpoint: add --resume, or take another --out")
    processes = open_processes(recipe, options.device, folder=run.path)
    console = console if processes.is_main else Console(quiet=True)
    console.print(
        f"[bold]{recipe.name} {recipe.version}[/]: {recipe.steps} steps on {processes.device},"
        f" processes: {processes.count}, precision: {processes.precision}"
    )
    corpus = read_corpus(options.data, recipe)
    _check_sets(corpus, recipe)
    files = files_read(recipe, corpus, options.data)
    fingerprints = fingerprints_of(recipe, corpus, files)
    if run.checkpoint.exists and not _goes_on(run, fingerprints):
        raise CheckpointMismatch(
            f"{run.path} holds the checkpoint of another recipe or of other data"
            f"{_changed(run, files)}: resume with the same recipe, options and data, or take"
            " another --out"
        )
    if processes.is_main:
        _keep_facts(corpus, files, run, console)
        first = _First(recipe, corpus, options, device=processes.device, console=console)
        _keep_encoder(first, run, fingerprint=fingerprints[0])
    processes.wait()
    model = open_pretrained(str(run.encoder))
    if processes.device.type == "cpu" and processes.precision == "bf16":
        # Backwards, torch's fused attention takes more time in bf16 on a CPU than all the rest.
        model.encoder.backbone.set_attn_implementation("eager")
    with processes.accelerator.main_process_first():  # the others find its vectors in the cache
        targets = target_vectors(
            corpus,
            recipe,
            width=model.encoder.width,
            cache=options.cache,
            device=processes.device,
            console=console,
        )
    model.encoder.to(processes.device)
    loop = Loop(
        recipe,
        run,
        model=model,
        material=Material(
            corpus, targets, options.data, first_new=_first_new(run), links=run.links
        ),
        processes=processes,
        console=console,
        fingerprints=fingerprints,
        resume=options.resume,
        stop_after_steps=options.stop_after_steps,
    )
    return Outcome(loop.run(), writes=processes.is_main)


def fingerprints_of(recipe: Recipe, corpus: Corpus, files: Mapping[str, str]) -> list[str]:
    """What a checkpoint must have been made with, to be gone on with, by the stages begun.

    The first one is of the encoder before all stages. Stages that were not begun may change.
    """
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {content}".encode())
    for text in corpus.texts:
        digest.update(hashlib.blake2b(text.encode(), digest_size=16).digest())
    for name, table in corpus.sets.items():
        digest.update(f"{name} {sorted(table.links.items())}".encode())
        for numbers in (table.texts, table.targets):
            for role in sorted(numbers):
                digest.update(role.encode() + numbers[role].tobytes())
        digest.update(table.negatives.tobytes())
    digest.update(repr([list(target) for target in corpus.targets]).encode())
    found = []
    for stages in range(len(recipe.stage) + 1):
        begun = digest.copy()
        begun.update(recipe.fingerprint(stages).encode())
        found.append(begun.hexdigest())
    return found


def _goes_on(run: RunFolder, fingerprints: Sequence[str]) -> bool:
    """Whether the checkpoint is of a run that had begun as this one would."""
    progress = run.checkpoint.progress
    begun = progress.stage + 1
    return begun < len(fingerprints) and progress.recipe == fingerprints[begun]


def _check_sets(corpus: Corpus, recipe: Recipe) -> None:
    """A stage without rows must not be found out hours after the start."""
    for stage in recipe.stage:
        names = {name for batches in stage.batches for name in batches.data}
        if missing := sorted(name for name in names if not len(corpus.sets[name])):
            raise TrainingFailed(
                f"stage {stage.name!r}: the data sets {', '.join(missing)} have no rows"
            )


def _changed(run: RunFolder, files: Mapping[str, str]) -> str:
    """The files that are no longer what they were when the run was begun; empty if none is."""
    known = json.loads(run.data.read_text("utf-8")) if run.data.is_file() else {}
    before = known.get("files", {}).items()
    names = sorted({name for name, _ in before ^ files.items()}) if before else []
    return f" ({', '.join(names[:SHOWN])} changed since it was begun)" if names else ""


def _keep_facts(corpus: Corpus, files: Mapping[str, str], run: RunFolder, console: Console) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    facts = corpus.facts
    run.sources.write_text(json.dumps(facts["sources"], indent=1), "utf-8")
    counted = {name: facts[name] for name in ("rows", "left_out", "sets")}
    run.data.write_text(json.dumps({**counted, "files": files}, indent=1), "utf-8")
    run.leaks.write_text(json.dumps(facts["leaks"], indent=1), "utf-8")
    with run.held_out.open("w", encoding="utf-8") as file:
        for pair in corpus.held_out:
            file.write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")
    counts = ", ".join(f"{len(table):,} {name}" for name, table in corpus.sets.items())
    console.print(f"{len(corpus.texts):,} texts in {len(corpus.languages)} languages: {counts}")


@dataclass(frozen=True, slots=True)
class _First:
    """What the encoder that training begins with is made of."""

    recipe: Recipe
    corpus: Corpus
    options: Options
    device: torch.device
    console: Console

    def encoder(self) -> tuple[Pretrained, int | None]:
        """The encoder, and where new pieces were grafted on, how many of its own it kept."""
        start = self.recipe.start
        if start is None:
            return self._student(), None
        opened = open_pretrained(
            start.model,
            max_tokens=start.max_tokens,
            dropout=start.dropout,
            pooling=start.pooling,
            prompts=start.prompts,
        )
        if self.recipe.graft is None:
            return opened, None
        targets = target_vectors(
            self.corpus,
            self.recipe,
            width=opened.encoder.width,
            cache=self.options.cache,
            device=self.device,
            console=self.console,
        )
        if targets is None:
            raise AssertionError("a recipe with a graft has a teacher")
        return graft(
            opened,
            self.corpus,
            targets.cpu(),
            self.recipe.graft,
            seed=self.recipe.seed,
            console=self.console,
        )

    def _student(self) -> Pretrained:
        recipe, shape = self.recipe, self.recipe.student
        if shape is None:
            raise AssertionError("a recipe has a start or a student")
        self.console.print(
            f"learning {recipe.vocabulary.pieces:,} word pieces (minutes on few cores) …"
        )
        tokenizer = train_tokenizer(
            self.corpus, recipe.vocabulary, seed=recipe.seed, max_tokens=shape.max_tokens
        )
        pieces = Pieces.of(tokenizer, shape.max_tokens)
        torch.manual_seed(recipe.seed)
        return Pretrained(
            encoder=new_student(shape, vocabulary_size=pieces.size, padding_id=pieces.pad),
            pieces=pieces,
            prompts={"query": "", "passage": ""},
            max_tokens=shape.max_tokens,
            name=recipe.name,
            revision=recipe.version,
            licence=recipe.licence,
        )


def _keep_encoder(made: _First, run: RunFolder, *, fingerprint: str) -> None:
    """Write the encoder that training begins with, unless this very run has done so before.

    A vocabulary that is learned again may be another one, and a model on the hub may change: a run
    that goes on takes what it began with.
    """
    mark = run.encoder / "made_for.txt"
    if mark.is_file() and mark.read_text("utf-8") == fingerprint:
        _keep_recipe(made.recipe, run)  # later stages may be others
        return
    partial = run.encoder.with_name(run.encoder.name + ".partial")
    # Best weights and links that another run has left here would be taken for this one's.
    run.best.discard()
    for folder in (partial, run.encoder, run.links):
        shutil.rmtree(folder, ignore_errors=True)
    first, kept = made.encoder()
    save_pretrained(partial, first)
    if first.folder is not None:
        carry_head(first.folder, partial)
    if kept is not None:
        (partial / run.grafted.name).write_text(json.dumps({"kept": kept}), "utf-8")
    (partial / mark.name).write_text(fingerprint, "utf-8")
    partial.rename(run.encoder)
    _keep_recipe(made.recipe, run)


def _keep_recipe(recipe: Recipe, run: RunFolder) -> None:
    run.recipe.write_text(recipe.model_dump_json(indent=1), "utf-8")


def _first_new(run: RunFolder) -> int:
    """The number of the first piece that was grafted on; 0 if none was."""
    if not run.grafted.is_file():
        return 0
    return int(json.loads(run.grafted.read_text("utf-8"))["kept"])

"""Recipes: everything that shapes a training run, as frozen models read from one TOML file.

An unknown key is refused, a wrong number is refused with its bound, and the hash of the resolved
recipe travels into the checkpoint and the bundle, so that a run cannot silently become another.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from service.manifest import Precision
from training.config.batches import NEEDED, Batches, views_of
from training.config.data import Data
from training.config.evaluation import Evaluation
from training.config.graft import Graft
from training.config.methods import Distillation, Ear, Method
from training.config.strict import Count, NotNegative, Positive, Share, Strict

ON_VECTORS = frozenset({"info_nce", "clear", "hybrid", "distillation"})
"""Methods that read pooled vectors alone."""


GOLDEN_LIMIT = 256
"""Of each language; no more of one are held out."""


class RecipeInvalid(ValueError):
    """The recipe cannot be read; the message names the key, the value and what is allowed."""


class Vocabulary(Strict):
    """The Unigram vocabulary that a new student's tokenizer learns from the training text."""

    pieces: Annotated[int, Field(ge=300)] = 18_000
    sample_characters: Count = 24_000_000
    """How much text the vocabulary is learned from, over all languages."""
    language_exponent: Share = 0.4
    """A language with n characters gets a share of n ** exponent: 1 natural, 0 uniform."""
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9995
    """Characters beyond it, per language, are spelled in bytes."""


class Backbone(Strict):
    """A student from nothing: a BERT encoder, masked mean, L2 normalisation."""

    hidden: Count = 256
    layers: Count = 3
    heads: Count = 4
    feed_forward: Count = 1024
    max_tokens: Annotated[int, Field(ge=8)] = 256
    dropout: Share = 0.1

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} is not a multiple of heads = {self.heads}")
        return self


class Start(Strict):
    """An encoder that exists, with its tokenizer, pooling and prompts, and is trained on."""

    model: str
    """A bundle, a Sentence Transformers or transformers folder, `package:NAME/FOLDER` inside an
    installed package, or a hub id."""
    max_tokens: Annotated[int, Field(ge=8)] | None = None
    """Longer texts are cut; the model's own limit if not given."""
    dropout: Share | None = None
    """Instead of the model's own."""
    pooling: Literal["mean", "cls"] | None = None
    """Of a plain transformers folder, which does not say it; others say it themselves."""
    prompts: dict[Literal["query", "passage"], str] | None = None
    """What goes before every query and passage, instead of the model's own."""


class Teacher(Strict):
    """The frozen English encoder whose space the student learns."""

    model: str
    """As in `start`."""
    max_tokens: Count = 256
    pooling: Literal["mean", "cls"] | None = None
    """As in `start`."""
    prompts: dict[Literal["query", "passage"], str] | None = None
    """As in `start`; a sentence has the query's."""


class Stage(Strict):
    """One part of a run: which rows, which losses, how many steps."""

    name: str
    steps: Count
    batches: tuple[Batches, ...] = Field(min_length=1)
    methods: tuple[Method, ...] = Field(min_length=1)
    """Their weighted losses are summed on the same batch."""
    body: bool = True
    """Without the body, the token embeddings are trained alone, pooled as they are: a static
    skeleton, at a fraction of the cost, on which a later stage builds the layers."""
    train: Literal["all", "embeddings", "new_pieces"] = "all"
    """What moves: everything; the rows of the token embeddings; or only those of the pieces that a
    `[graft]` has brought, which keeps English what it is. Without the body it costs a third less."""
    rows: Annotated[int, Field(ge=2)]
    """Rows of a batch, over all processes; they are each other's negatives."""
    tokens: Count
    """Bound on rows times the longest text of a view; a batch of long texts has fewer rows."""
    accumulate: Count = 1
    """Batches whose gradients are averaged before a step. It adds no negatives: `rows` does, and
    `cache_rows` makes more of them fit."""
    cache_rows: Count | None = None
    """Gradient cache: so many rows of a process are encoded at a time, so that memory does not
    grow with `rows`; value and gradient stay those of the whole batch."""
    matryoshka: tuple[Count, ...] = ()
    """Widths at which the losses on vectors are taken, and summed; the full width must be one."""
    learning_rate: Positive
    pieces_learning_rate: Positive | None = None
    """Of the token embeddings, which then have an Adam of their own, by rows; else as all."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: NotNegative = 0.01
    token_dropout: Share = 0.0
    """This share of the word pieces is replaced by the mask piece."""

    @model_validator(mode="after")
    def _embeddings_alone_have_one_rate(self) -> Self:
        if self.train != "all" and self.pieces_learning_rate is not None:
            raise ValueError(
                f"stage {self.name!r}: with train = {self.train!r} their rate is learning_rate;"
                " leave pieces_learning_rate out"
            )
        return self

    @model_validator(mode="after")
    def _methods_get_their_views(self) -> Self:
        for batches in self.batches:
            views = views_of(batches)
            for method in self.methods:
                if missing := NEEDED[method.method] - views:
                    raise ValueError(
                        f"stage {self.name!r}: {method.method} needs {', '.join(sorted(missing))},"
                        f" and {batches.kind!r} batches have only {', '.join(sorted(views))}"
                    )
            if self.token_dropout and batches.kind in {"words", "translation"}:
                raise ValueError(
                    f"stage {self.name!r}: token_dropout = {self.token_dropout} is not for"
                    f" {batches.kind!r} batches, whose methods mask by their own rates; set it to 0"
                )
        names = [method.method for method in self.methods]
        if not self.body and (deep := sorted(set(names) - ON_VECTORS)):
            raise ValueError(
                f"stage {self.name!r}: {', '.join(deep)} needs the layers, and body = false has none"
            )
        if self.matryoshka and not set(names) & (ON_VECTORS | {"ear"}):
            raise ValueError(
                f"stage {self.name!r}: matryoshka = {list(self.matryoshka)} cuts the vectors that"
                f" are exported, which {', '.join(names)} does not read; leave it out"
            )
        if self.token_dropout and any(
            isinstance(method, Ear) and method.perturber.kind == "synonyms"
            for method in self.methods
        ):
            raise ValueError(
                f"stage {self.name!r}: token_dropout = {self.token_dropout} would not reach ear's"
                " copies, which synonyms spell anew; set it to 0 or take another perturber"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"stage {self.name!r}: warmup_steps = {self.warmup_steps} > steps = {self.steps}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"stage {self.name!r}: a method is named twice: {', '.join(names)}")
        return self


class Loop(Strict):
    """What holds for all stages."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """`auto` is bf16 on CUDA and fp32 on the CPU."""
    max_gradient_norm: Positive = 1.0
    log_every: Count = 50
    evaluate_every: Count | None = None
    checkpoint_every: Count = 1000
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Beside `metrics.jsonl`, which is always written."""


class Stopping(Strict):
    """When training ends early: the metric stands still, or English falls too far."""

    metric: str
    """A key of the summary that `isogloss-train evaluate` prints, e.g. `xquad cross ndcg@10`."""
    patience: Count = 3
    """Evaluations without a new best one."""
    min_gain: NotNegative = 0.0
    guard: str | None = None
    """A key of the summary for English, e.g. `xquad en-en ndcg@10`."""
    max_guard_drop: Positive = 2.0
    """In points below the guard's value before the first step; a step that falls deeper is no
    best one, however good its metric."""


class Variants(Strict):
    """The gate that an int8 or fp16 graph must pass, in every language, to be shipped."""

    min_mean_cosine: float = 0.99
    min_cosine: float = 0.97
    min_top10_overlap: Share = 0.85
    max_ndcg_drop: float = 0.5
    """In points of nDCG@10 among the held-out pairs, index and queries by the same graph; a larger
    one fails if it is more than chance."""


class Export(Strict):
    """What the bundle of the run is."""

    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32", "int8")
    """Its graphs; int8 and fp16 are in it only if they pass the gate."""
    golden: Annotated[int, Field(ge=0, le=GOLDEN_LIMIT)] = 32
    """Golden queries of each language at most, drawn from the held-out text; a service asks them
    before the bundle goes live there."""


class Recipe(Strict):
    """A training run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    version: str
    licence: str
    """The licence of the weights that this recipe makes."""
    seed: int = 7
    data: Data
    start: Start | None = None
    student: Backbone | None = None
    vocabulary: Vocabulary = Vocabulary()
    """Of a `student`; a `start` brings its own."""
    graft: Graft | None = None
    """Of a `start`: new pieces for other languages, before the first stage."""
    teacher: Teacher | None = None
    loop: Loop = Loop()
    stopping: Stopping | None = None
    evaluation: Evaluation = Evaluation()
    variants: Variants = Variants()
    export: Export = Export()
    stage: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.start is None) == (self.student is None):
            raise ValueError("name either start (an encoder to train on) or student (a new one)")
        if self.start is not None and self.vocabulary != Vocabulary():
            raise ValueError("vocabulary is for a new student; start brings its own tokenizer")
        self._check_graft()
        if not self.stage[-1].body:
            raise ValueError(f"stage {self.stage[-1].name!r}: the last stage must train the body")
        for stage in self.stage:
            for batches in stage.batches:
                if unknown := set(batches.data) - self.data.sets.keys():
                    raise ValueError(
                        f"stage {stage.name!r} asks for the data sets"
                        f" {', '.join(sorted(unknown))}; there are {', '.join(self.data.sets)}"
                    )
            if self.teacher is None and any(isinstance(m, Distillation) for m in stage.methods):
                raise ValueError(f"stage {stage.name!r}: distillation needs a [teacher]")
        if self.stopping is not None and self.loop.evaluate_every is None:
            raise ValueError("stopping needs loop.evaluate_every")
        if self.loop.evaluate_every is not None and not self.evaluation.benchmarks:
            raise ValueError("loop.evaluate_every needs [[evaluation.benchmarks]] to run")
        return self

    def _check_graft(self) -> None:
        if self.graft is None:
            if alone := [stage.name for stage in self.stage if stage.train == "new_pieces"]:
                raise ValueError(f"stage {alone[0]!r}: train = 'new_pieces' needs a [graft]")
            return
        if self.start is None or self.teacher is None:
            raise ValueError("[graft] needs a [start] to graft on, and a [teacher] for the space")
        if unknown := set(self.graft.data) - self.data.sets.keys():
            raise ValueError(
                f"graft.data asks for {', '.join(sorted(unknown))}; there are"
                f" {', '.join(self.data.sets)}"
            )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stage)

    def fingerprint(self, stages: int | None = None) -> str:
        """Of everything that shapes the weights after the first `stages` stages, or after all."""
        begun = self.model_copy(update={"stage": self.stage[:stages]})
        return hashlib.sha256(begun.model_dump_json(exclude={"export"}).encode()).hexdigest()

    def scaled(self, factor: float) -> Self:
        """The same recipe with `factor` times the steps of every stage, at least one each."""
        stages = tuple(
            stage.model_copy(
                update={
                    "steps": max(1, round(stage.steps * factor)),
                    "warmup_steps": round(stage.warmup_steps * factor),
                }
            )
            for stage in self.stage
        )
        return self.model_copy(update={"stage": stages})

    def taught_by(self, model: str) -> Self:
        """The same recipe with another place to find its teacher."""
        if self.teacher is None:
            raise RecipeInvalid("the recipe has no [teacher] that could be replaced")
        return self.model_copy(update={"teacher": self.teacher.model_copy(update={"model": model})})

    def started_from(self, model: str) -> Self:
        """The same recipe with another encoder to train on."""
        if self.start is None:
            raise RecipeInvalid("the recipe trains a new student and has no [start] to replace")
        return self.model_copy(update={"start": self.start.model_copy(update={"model": model})})

    def seeded(self, seed: int) -> Self:
        """The same recipe with another seed."""
        return self.model_copy(update={"seed": seed})


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe; an override `key=value` replaces one value, e.g. `stage.0.steps=10`.

    Raises:
        RecipeInvalid: unreadable, an unknown key, or a value out of its bounds; names each.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeInvalid(f"{path}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeInvalid(f"{path}: not TOML: {error}") from error
    for override in overrides:
        _replace(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_problem(problem) for problem in error.errors())
        raise RecipeInvalid(f"{path}: {problems}") from error


def _problem(error: ErrorDetails) -> str:
    """Key, value and what is allowed, as one phrase."""
    key = ".".join(map(str, error["loc"])) or "recipe"
    match error["type"]:
        case "extra_forbidden":
            return f"{key}: there is no such key"
        case "missing":
            return f"{key}: is missing"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
        case _:
            value = error["input"]
            given = "" if isinstance(value, dict | list) else f" (not {value!r})"
            return f"{key}: {error['msg']}{given}"


def _replace(content: dict[str, Any], override: str) -> None:
    """Put one value into what a TOML file holds; numbers in the key count the items of a list."""
    key, equals, text = override.partition("=")
    *folders, last = key.strip().split(".")
    if not equals or not last:
        raise RecipeInvalid(f"{override!r} is not key=value, e.g. stage.0.steps=10")
    place: Any = content
    try:
        for folder in folders:
            place = place[int(folder)] if isinstance(place, list) else place.setdefault(folder, {})
        place[int(last) if isinstance(place, list) else last] = _value(text)
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise RecipeInvalid(f"{override!r}: the recipe has no place {key.strip()!r}") from error


def _value(text: str) -> object:
    """A TOML value, or the bare text where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()

"""Recipes: everything that shapes a training run, as frozen models read from one TOML file.

An unknown key is refused, a wrong number is refused with its bound, and the hash of the resolved
recipe travels into the checkpoint and the bundle, so that a run cannot silently become another.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SourceName: TypeAlias = Literal["bitext", "pivot", "question", "english", "joined", "cloze"]
"""A kind of training row; `training.data` says what its two sides are."""

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(gt=0)]


class RecipeInvalid(ValueError):
    """The recipe cannot be read; the message names the key, the value and what is allowed."""


class Strict(BaseModel):
    """What all parts of a recipe share: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Strict):
    """Which rows of the data folder are used."""

    languages: tuple[str, ...] = ()
    """Foreign languages; empty means every `parallel/en-xx.tsv.gz` that lies there."""
    exclude_sources: tuple[str, ...] = ()
    """Rows of these sources are left out, e.g. those for non-commercial use."""
    rows_per_language: Count | None = None
    """At most so many rows of a file, the first ones (the files are shuffled)."""
    max_characters: Count = 4000
    max_bad_share: Share = 0.001
    """More malformed rows than this share, and the run is refused."""
    held_out_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.03
    """Share of the English sentences kept out of training, with all their translations, for the
    parity gate of the export and its probes; at most 256 pairs a language are used there."""
    joined_rows: Annotated[int, Field(ge=0)] = 0
    """Long texts made of several pairs of one language and source."""
    joined_sentences: Annotated[int, Field(ge=2)] = 8
    licences: dict[str, str] = {}
    """Source to licence, recorded in the bundle; a source without one is recorded as unstated."""


class Vocabulary(Strict):
    """The Unigram vocabulary that is learned from the training text."""

    pieces: Annotated[int, Field(ge=300)] = 18_000
    sample_characters: Count = 24_000_000
    """How much text the vocabulary is learned from, over all languages."""
    language_exponent: Share = 0.4
    """A language with n characters gets a share of n ** exponent: 1 natural, 0 uniform."""
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9995
    """Characters beyond it, per language, are spelled in bytes."""


class Backbone(Strict):
    """The student: a BERT encoder, masked mean, L2 normalisation."""

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


class Teacher(Strict):
    """The frozen English encoder whose space the student learns."""

    model: str
    """`package:NAME/FOLDER` inside an installed package, a local folder, or a hub id."""
    max_tokens: Count = 256


class InfoNce(Strict):
    """Settings of `training.methods.info_nce`."""

    method: Literal["info_nce"]
    weight: Positive = 1.0
    temperature: Positive = 0.05
    symmetric: bool = True
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Distillation(Strict):
    """Settings of `training.methods.distillation`."""

    method: Literal["distillation"]
    weight: Positive = 1.0
    distance: Literal["cosine", "mse"] = "cosine"
    relation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the term that matches similarities within the batch, not only the vectors."""
    temperature: Positive = 0.05


Method: TypeAlias = Annotated[InfoNce | Distillation, Field(discriminator="method")]


class Stage(Strict):
    """One part of a run: which rows, which losses, how many steps."""

    name: str
    steps: Count
    body: bool = True
    """Without the body, the token embeddings are trained alone, pooled as they are: a static
    skeleton, at a fraction of the cost, on which a later stage builds the layers."""
    data: dict[SourceName, Positive]
    """How often a batch comes from each source, relative to the others."""
    methods: tuple[Method, ...] = Field(min_length=1)
    """Their weighted losses are summed on the same batch."""
    batch_rows: Annotated[int, Field(ge=2)]
    batch_tokens: Count
    """Bound on rows times the longest text of a side; a batch of long texts has fewer rows."""
    learning_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    language_exponent: Share = 0.5
    """A language with n rows is drawn with a share of n ** exponent."""
    token_dropout: Share = 0.0
    """This share of the word pieces is replaced by the mask piece."""

    @model_validator(mode="after")
    def _pairs_where_needed(self) -> Self:
        if "english" in self.data and any(m.method == "info_nce" for m in self.methods):
            raise ValueError(f"stage {self.name!r}: info_nce needs pairs, 'english' has one side")
        if not self.data:
            raise ValueError(f"stage {self.name!r}: data names no source")
        return self


class Loop(Strict):
    """What holds for all stages."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """`auto` is bf16 on CUDA and fp32 on the CPU."""
    max_gradient_norm: Positive = 1.0
    log_every: Count = 50
    evaluate_every: Count | None = None
    checkpoint_every: Count = 1000


class Evaluation(Strict):
    """Benchmarks that run during and after training, from the folder `eval/` of the data."""

    xquad: tuple[str, ...] = ()
    ntrex: dict[str, str] = {}
    """Language to the name of its file, e.g. `de = "deu"`; English is `eng`."""
    tatoeba: dict[str, str] = {}


class Quantisation(Strict):
    """The gate that an int8 graph must pass, per language, to be shipped."""

    min_mean_cosine: float = 0.99
    min_cosine: float = 0.97
    max_ndcg_drop: float = 0.5
    """In points of nDCG@10 among the held-out pairs, index and queries by the same graph."""


class Recipe(Strict):
    """A training run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    version: str
    licence: str
    """The licence of the weights that this recipe makes."""
    seed: int = 7
    data: Data = Data()
    vocabulary: Vocabulary = Vocabulary()
    student: Backbone = Backbone()
    teacher: Teacher
    loop: Loop = Loop()
    evaluation: Evaluation = Evaluation()
    quantisation: Quantisation = Quantisation()
    stage: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ends_with_the_body(self) -> Self:
        if not self.stage[-1].body:
            raise ValueError(f"stage {self.stage[-1].name!r}: the last stage must train the body")
        return self

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stage)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

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
        return self.model_copy(update={"teacher": self.teacher.model_copy(update={"model": model})})


def read_recipe(path: Path) -> Recipe:
    """Read a TOML recipe.

    Raises:
        RecipeInvalid: unreadable, an unknown key, or a value out of its bounds; names each.
    """
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise RecipeInvalid(f"{path}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeInvalid(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()
        )
        raise RecipeInvalid(f"{path}: {problems}") from error

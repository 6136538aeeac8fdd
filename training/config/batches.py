"""Settings of `training.samplers`: which texts of a group meet in a row, and which rows in a batch.

Every kind says which named views its batches have; a method that needs others is refused when the
recipe is read. Roles: `query`, `passage`, `sentence`.
"""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from training.config.aligners import Aligner, Ibm1
from training.config.strict import Positive, Share, Strict

TextRole: TypeAlias = Literal["query", "passage", "sentence"]
Negatives: TypeAlias = Annotated[int, Field(ge=0, le=64)]
ENGLISH = "en"


class _Feed(Strict):
    data: tuple[str, ...] = Field(min_length=1)
    """Names of the recipe's data sets; a batch comes from one of them."""
    share: Positive = 1.0
    """How often a batch is of this kind, relative to the stage's other ones."""
    languages: tuple[str, ...] = ()
    """Only texts in these; empty means all."""
    language_exponent: Share = 0.5
    """A language with n rows is drawn with a share of n ** exponent; where the two texts of a row
    differ in language, the ordered pair of languages is drawn so."""
    set_exponent: Share = 0.5
    """A data set with n groups that can be in a row is drawn with a share of n ** exponent."""

    @model_validator(mode="after")
    def _pivot_is_among_the_languages(self) -> Self:
        pivot = getattr(self, "pivot", None)
        if pivot is not None and self.languages and pivot not in self.languages:
            raise ValueError(
                f"pivot = {pivot!r} is not among languages = {', '.join(self.languages)}; add it"
            )
        return self


class _Paired(_Feed):
    roles: tuple[TextRole, TextRole] = ("query", "passage")
    """Of the anchor and of its positive."""
    negatives: Negatives = 0
    """Hard negatives a row, drawn from the groups that the group names, in the language and role of
    the positive; groups with fewer are left out."""


class _OneLanguage(_Paired):
    @model_validator(mode="after")
    def _anchor_is_not_its_own_positive(self) -> Self:
        if self.roles[0] == self.roles[1]:
            raise ValueError(
                f"roles = {list(self.roles)} in one language are the same text twice; only 'cross'"
                " batches can pair texts of one role"
            )
        return self


class Mono(_OneLanguage):
    """One language a batch, drawn by temperature; anchor and positive are both in it."""

    kind: Literal["mono"]


class Cross(_Paired):
    """Anchor and positive differ in language, the pairs vary from row to row."""

    kind: Literal["cross"]
    pivot: str | None = None
    """One of the two is always in this language."""


class MixedRows(_OneLanguage):
    """Rows of one language each, different languages in a batch: a control that does harm."""

    kind: Literal["mixed_rows"]


class HybridBatches(_OneLanguage):
    """A `mono` batch with probability alpha, a `cross` batch otherwise.

    Groups in one language only are in `mono` batches alone.
    """

    kind: Literal["hybrid"]
    alpha: Share = 0.5
    pivot: str | None = None
    """Of the `cross` batches."""


class Bridged(_Feed):
    """CLEAR's rows: query and passage in the pivot language, the query in another one too."""

    kind: Literal["bridged"]
    pivot: str = ENGLISH
    negatives: Negatives = 0
    """Hard-negative passages, and as many queries of these very passages in the other language."""


class Single(_Feed):
    """One text a row, for methods that need no pair."""

    kind: Literal["single"]
    role: TextRole = "sentence"


class Words(_Feed):
    """Two translations and, in each, the place of one of a pair of words that mean the same."""

    kind: Literal["words"]
    pivot: str = ENGLISH
    aligner: Aligner = Ibm1(kind="ibm1")
    stop_words: Annotated[int, Field(ge=0)] = 50
    """So many of the most frequent words of each language are never marked."""


class Translation(_Feed):
    """Two translations as one sequence, with the links between their words."""

    kind: Literal["translation"]
    pivot: str = ENGLISH
    aligner: Aligner = Ibm1(kind="ibm1")


Batches: TypeAlias = Annotated[
    Mono | Cross | MixedRows | HybridBatches | Bridged | Single | Words | Translation,
    Field(discriminator="kind"),
]


def views_of(batches: Batches) -> frozenset[str]:
    """The names of the views that a batch of this kind has."""
    match batches:
        case Bridged():
            pairs = {"query", "positive", "cross_query"}
            hard = {f"negative{k}" for k in range(batches.negatives)}
            crossed = {f"cross_negative{k}" for k in range(batches.negatives)}
            return frozenset(pairs | hard | crossed)
        case Single():
            return frozenset({"query"})
        case Words():
            return frozenset({"source", "target"})
        case Translation():
            return frozenset({"joined"})
        case _:
            hard = {f"negative{k}" for k in range(batches.negatives)}
            return frozenset({"query", "positive"} | hard)


NEEDED: dict[str, frozenset[str]] = {
    "info_nce": frozenset({"query", "positive"}),
    "clear": frozenset({"query", "positive", "cross_query"}),
    "hybrid": frozenset({"query", "positive"}),
    "ml_ctl": frozenset({"source", "target"}),
    "weam": frozenset({"joined"}),
    "ear": frozenset({"query", "positive"}),
    "distillation": frozenset({"query"}),
}
"""The views that a method cannot do without."""

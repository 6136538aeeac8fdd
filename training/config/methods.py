"""Settings of the methods of `training.methods`, with the defaults of their papers or their code."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from training.config.strict import Count, NotNegative, Positive, Share, Strict


class InfoNce(Strict):
    """`training.methods.info_nce`."""

    method: Literal["info_nce"]
    weight: Positive = 1.0
    temperature: Positive = 0.05
    symmetric: bool = False
    """Also the positive must pick its anchor out of all anchors."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Clear(Strict):
    """`training.methods.clear`; the parts weigh 1 - alpha - beta, alpha and beta."""

    method: Literal["clear"]
    weight: Positive = 1.0
    temperature: Positive = 0.05
    alpha: Share = 0.4
    beta: Share = 0.2
    kl: Literal["reverse_forward", "forward_reverse"] = "reverse_forward"
    """KL(reverse || forward) as in the authors' code, or the other way round."""

    @model_validator(mode="after")
    def _weights_leave_the_forward_part(self) -> Self:
        if self.alpha + self.beta > 1:
            raise ValueError(
                f"clear: alpha + beta = {self.alpha + self.beta} is above 1, which would make the"
                " weight of the forward part, 1 - alpha - beta, negative"
            )
        return self


class Hybrid(Strict):
    """`training.methods.hybrid`; which languages meet is said by the stage's batches."""

    method: Literal["hybrid"]
    weight: Positive = 1.0
    temperature: Positive = 0.05
    paper_strict: bool = False
    """The formula as printed: a sum over rows, no temperature, no other rows' positives."""

    @model_validator(mode="after")
    def _strict_has_no_temperature(self) -> Self:
        if self.paper_strict and self.temperature not in {0.05, 1.0}:
            raise ValueError(
                f"hybrid: paper_strict has no temperature, and temperature = {self.temperature}"
                " would be ignored; leave one of them out"
            )
        return self


class MlCtl(Strict):
    """`training.methods.ml_ctl`."""

    method: Literal["ml_ctl"]
    weight: Positive = 1.0
    temperature: Positive = 0.07
    contrast: Literal["cz", "info_nce"] = "cz"
    level: Literal["sentence_and_word", "sentence"] = "sentence_and_word"
    anchors: Literal["both", "first"] = "both"
    mask_views: bool = False
    """Contrast the masked copies, as the authors' code does."""
    mlm_weight: NotNegative = 0.1
    mask_rate: Share = 0.15


class Weam(Strict):
    """`training.methods.weam`; `exchange_weight` is its lambda."""

    method: Literal["weam"]
    weight: Positive = 1.0
    exchange_weight: NotNegative = 1.0
    mask_rate: Share = 0.15
    """Share of the words that must be predicted."""
    mask_share: Share = 0.8
    """Of these, how many are replaced by the mask piece."""
    random_share: Share = 0.1
    """And how many by a random piece; the rest stay visible, without which nothing aligns."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"weam: mask_share + random_share = {self.mask_share + self.random_share} > 1"
            )
        return self


class Synonyms(Strict):
    """A word becomes one of its neighbours in a table, or stays, all alike likely."""

    kind: Literal["synonyms"]
    path: str
    """Below the data folder, perhaps `.gz`: a word, a tab, its neighbours separated by spaces; one
    word a line. Words are what stands between spaces, and must match exactly."""


class Neighbours(Strict):
    """A piece becomes one of its nearest in the space of the input embeddings."""

    kind: Literal["neighbours"]
    share: Share = 0.3
    """Of the pieces that are replaced; special pieces never are."""
    count: Count = 4
    """How many nearest pieces there are to choose from, all alike likely."""


class Noise(Strict):
    """Gaussian noise on the embedding layer's output.

    It is a constant to the embeddings, so that pushing (`alpha`) has nothing to move but dropout.
    """

    kind: Literal["noise"]
    radius: Positive = 0.1
    """Expected length of the noise as a share of the length of the vector that it is added to."""


Perturber: TypeAlias = Annotated[Synonyms | Neighbours | Noise, Field(discriminator="kind")]


class Ear(Strict):
    """`training.methods.ear`."""

    method: Literal["ear"]
    weight: Positive = 1.0
    temperature: Positive = 0.05
    alpha: NotNegative = 0.1
    """Weight of pushing the embeddings of both views apart."""
    beta: NotNegative = 1.0
    """Weight of pulling their attention together."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """Whose attention, counted from 0; (layers - 1) // 2 if not given: the authors' 5 of 12."""
    push_bound: Positive | None = None
    """Beyond this mean squared distance of a batch nothing is pushed any more; without it the
    term is unbounded below. E.g. the one between the centroids of two languages."""
    strict: bool = False
    """Compare attention position by position and with the padding, as the authors' code does."""
    perturber: Perturber = Neighbours(kind="neighbours")
    """How the second copy of a text comes about."""


class Distillation(Strict):
    """`training.methods.distillation`."""

    method: Literal["distillation"]
    weight: Positive = 1.0
    distance: Literal["cosine", "mse", "cosine_and_mse"] = "cosine"
    """Of the directions, or the squared one of the student's vectors before normalisation to the
    teacher's unit vectors, or the sum of both."""
    relation_weight: NotNegative = 0.0
    """Weight of the term that matches similarities within the batch, not only the vectors."""
    contrast_weight: NotNegative = 0.0
    """Weight of InfoNCE with the batch's teacher vectors as candidates: each text must be nearest
    to its own."""
    temperature: Positive = 0.05
    """Of both terms."""


Method: TypeAlias = Annotated[
    InfoNce | Clear | Hybrid | MlCtl | Weam | Ear | Distillation, Field(discriminator="method")
]

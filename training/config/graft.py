"""Settings of `training.trainer.graft`: new word pieces on an English encoder."""

from typing import Annotated

from pydantic import Field

from training.config.strict import Count, Positive, Share, Strict


class Graft(Strict):
    """New word pieces for other languages on an English encoder, whose body stays as it is.

    The start must have word pieces as BERT has them. Its pieces are pruned by the English text, new
    ones are learned from all other text, and each new row begins as a mean of the rows of English
    pieces that stand near it in a static space of all languages (WECHSEL, arXiv 2112.06598).
    """

    pieces: Count = 30_000
    """New ones at most, but that every character of the sample gets one. Pieces of the start that
    English seldom uses count as new beside them."""
    min_count: Annotated[int, Field(ge=0)] = 1
    """The start's own pieces are kept if the English text uses them so often."""
    sample_characters: Count = 24_000_000
    """How much text the pieces are learned from, over all languages but English."""
    language_exponent: Share = 0.4
    """A language with n characters gets a share of n ** exponent: 1 natural, 0 uniform."""
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9995
    """Characters beyond it, per language, get no piece."""
    strips_accents: bool = False
    """Of Latin and Greek letters; marks of other scripts always stay."""
    data: tuple[str, ...] = Field(min_length=1)
    """Data sets whose sentences the static space is trained on."""
    steps: Count = 3000
    rows: Annotated[int, Field(ge=2)] = 2048
    """Texts of a batch, which are each other's negatives."""
    learning_rate: Positive = 0.02
    """Falls to nothing."""
    temperature: Positive = 0.05
    row_exponent: Share = 0.5
    """A language with n texts is drawn with a share of n ** exponent."""
    neighbours: Count = 10
    """English pieces that a new row is made of."""
    sharpness: Positive = 0.1
    """Temperature of the softmax over their cosines, which weighs them."""

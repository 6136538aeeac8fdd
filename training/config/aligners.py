"""Settings of the word aligners, `training.alignment`."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from training.config.strict import Count, Positive, Strict


class Given(Strict):
    """The links that the groups bring along, between words split at whitespace."""

    kind: Literal["given"]


class Ibm1(Strict):
    """IBM model 1 with a diagonal prior, trained on the stage's own sentence pairs."""

    kind: Literal["ibm1"]
    iterations: Count = 5
    null_probability: Annotated[float, Field(gt=0, lt=1)] = 0.08
    diagonal: Annotated[float, Field(ge=0)] = 4.0
    """How strongly words at like places are preferred; 0 is plain IBM model 1."""
    symmetrise: Literal["intersection", "grow_diag_final_and"] = "intersection"


class Pharaoh(Strict):
    """Files of `i-j` lines beside the text that they were made of, e.g. of fast_align or eflomal."""

    kind: Literal["pharaoh"]
    path: str
    """Below the data folder, with `{source}` and `{target}` for the languages."""
    text: str
    """Likewise: the `source words ||| target words` lines that the aligner read, line by line those
    of `path`. Pairs are found by their text, whatever was dropped or reordered since."""


class States(Strict):
    """Mutual arg-max over the hidden states that the encoder has when the stage begins."""

    kind: Literal["states"]
    layer: Annotated[int, Field(ge=0)] = 1
    """Hidden state that is compared, 0 being the embeddings."""
    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.3


class Command(Strict):
    """A program of the user's, called with files of tokenised lines, that prints `i-j` lines."""

    kind: Literal["command"]
    argv: tuple[str, ...] = Field(min_length=1)
    """With `{source}` and `{target}` for two files, or `{both}` for one of `source ||| target`
    lines; it is never run through a shell."""
    timeout_s: Positive = 3600.0

    @model_validator(mode="after")
    def _gets_the_text(self) -> Self:
        named = " ".join(self.argv)
        if "{both}" not in named and not ("{source}" in named and "{target}" in named):
            raise ValueError(
                f"argv = {list(self.argv)} names neither {{source}} and {{target}} nor {{both}},"
                " the files with the words"
            )
        return self


class Lexicon(Strict):
    """Words that a dictionary pairs, each once in its sentence (what ML-CTL was trained with)."""

    kind: Literal["lexicon"]
    path: str = "lexicon/{source}-{target}.tsv.gz"
    """Below the data folder: tab-separated, a header, the source word, the target word."""


Aligner: TypeAlias = Annotated[
    Given | Ibm1 | Pharaoh | States | Command | Lexicon, Field(discriminator="kind")
]
"""Source is the feed's `pivot`, target the other language."""

"""Settings of `training.data`: the files of a run, by format, and what is kept of them."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from training.config.strict import Count, Share, Strict


class _File(Strict):
    path: str
    """Below the data folder, or absolute; may hold `*`, and leave out `.gz`."""
    source: str | None = None
    """The name under which licence and counts are kept, where the rows name none themselves."""
    rows_per_file: Count | None = None
    """At most so many rows of each file, the first ones that are of no excluded source."""


class Tsv(_File):
    """Parallel text, tab-separated with a header; `*` in the path may stand for the language."""

    format: Literal["tsv"]
    columns: dict[str, str] = Field(default_factory=dict)
    """Column to language. Without it: `english` is en, `foreign` is what `*` stands for."""


class Moses(_File):
    """Two text files, line by line translations: `path` ends in `.{language}` for each of two."""

    format: Literal["moses"]
    languages: tuple[str, str]


class Tmx(_File):
    """Translation memory exchange, any number of languages a unit."""

    format: Literal["tmx"]


class JsonLines(_File):
    """One group a line, as `training.groups.Group.as_json` writes it."""

    format: Literal["groups"]


class Triples(_File):
    """Questions in two languages whose passage lies in another file, under `passage_id`."""

    format: Literal["triples"]
    passages: str


class Questions(_File):
    """JSON lines with `question`, `passage` and perhaps `title`, all in one language."""

    format: Literal["questions"]
    language: str = "en"


class Squad(_File):
    """SQuAD, XQuAD and MLQA JSON; the same question id in two files is one group.

    Languages are those in the names of the files: `xquad.de.json`, or
    `test-context-de-question-es.json`.
    """

    format: Literal["squad"]
    language: str = "en"
    """Of files whose names say none."""


class Beir(_File):
    """A folder with `queries*.jsonl`, `corpus*.jsonl` and `qrels*.tsv` (or `qrels/train.tsv`).

    Languages are those under `lang` in the rows, or in the names of the files: `corpus.de.jsonl`.
    `rows_per_file` bounds the pairs of a query and a relevant passage.
    """

    format: Literal["beir"]
    split: str = "train"
    language: str = "en"
    """Where neither the rows nor the names of the files say it."""


HubColumn: TypeAlias = Annotated[
    str, Field(pattern=r"^(query|passage|sentence|negative)\.[A-Za-z-]+$")
]


class Hub(Strict):
    """A data set of the Hugging Face hub, by id."""

    format: Literal["hub"]
    id: str
    """`owner/name`, or a folder of Parquet, CSV or JSON files below the data folder."""
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[str, HubColumn] = Field(min_length=1)
    """Column to `role.language`, e.g. `anchor = "query.en"`; `negative.en` for hard negatives,
    one text or a list of them."""
    rows: Count | None = None
    source: str | None = None


class Joined(Strict):
    """Long texts made of several pairs of one language and source, because parallel text is short."""

    format: Literal["joined"]
    of: str
    """The set of sentences that they are made of."""
    rows: Count
    sentences: Annotated[int, Field(ge=2)] = 8


class Cloze(Strict):
    """One sentence as the query, and as the passage a joined text that holds its translation."""

    format: Literal["cloze"]
    of: str
    rows: Count
    sentences: Annotated[int, Field(ge=2)] = 8


DataSet: TypeAlias = Annotated[
    Tsv | Moses | Tmx | JsonLines | Triples | Questions | Squad | Beir | Hub | Joined | Cloze,
    Field(discriminator="format"),
]


class Data(Strict):
    """Which rows of which files are used."""

    sets: dict[str, DataSet] = Field(default_factory=dict)
    languages: tuple[str, ...] = ()
    """Keep texts in these and in English; empty means all."""
    exclude_sources: tuple[str, ...] = ()
    """Rows of these sources are left out, e.g. those for non-commercial use."""
    min_characters: Count = 1
    max_characters: Count = 4000
    max_length_ratio: Annotated[float, Field(gt=1)] | None = None
    """Sentence pairs whose lengths differ by more, relative to the language's median, are dropped."""
    max_bad_share: Share = 0.001
    """More malformed rows than this share, and the run is refused."""
    held_out_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.03
    """Share of the English sentences kept out of training, with all their translations, for the
    parity gate of the export and its probes; at most 256 pairs a language are used there."""
    leaks: Literal["drop", "refuse", "keep"] = "drop"
    """What happens to texts that are in a benchmark of the recipe; counted in any case."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Source to licence, recorded in the bundle; a source without one is recorded as unstated."""

    @model_validator(mode="after")
    def _made_sets_are_made_of_read_ones(self) -> Self:
        for name, settings in self.sets.items():
            if isinstance(settings, Joined | Cloze):
                origin = self.sets.get(settings.of)
                if origin is None or isinstance(origin, Joined | Cloze):
                    known = [n for n, s in self.sets.items() if not isinstance(s, Joined | Cloze)]
                    raise ValueError(
                        f"data.sets.{name}.of = {settings.of!r} is no set that is read from files:"
                        f" {', '.join(known) or 'there are none'}"
                    )
        if self.max_characters < self.min_characters:
            raise ValueError(
                f"data.max_characters = {self.max_characters} is below data.min_characters ="
                f" {self.min_characters}"
            )
        return self

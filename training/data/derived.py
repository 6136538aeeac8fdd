"""Sets that are made of another one: joined sentences, and a sentence beside the text that holds it."""

from collections import defaultdict
from collections.abc import Iterator
from zlib import crc32

import numpy as np

from training.config.batches import ENGLISH
from training.config.data import Cloze, Joined
from training.data.drafts import Draft, DraftSet, Texts, cell
from training.data.filters import SENTENCE, translations
from training.readers import DataInvalid

UNSPACED = frozenset({"ja", "zh", "yue"})
LEAST = 2
SOURCE = "joined"
QUERY, PASSAGE = cell("query", 0), cell("passage", 0)


def derive(
    made: DraftSet, settings: Joined | Cloze, *, of: DraftSet, texts: Texts, seed: int
) -> None:
    """Fill a set with texts of several pairs each, all of one language and source.

    Raises:
        DataInvalid: no language and source of the other set has enough pairs.
    """
    buckets = [pairs for pairs in _buckets(of, texts) if len(pairs) >= settings.sentences]
    if not buckets:
        raise DataInvalid(
            f"data.sets.{made.name}.sentences = {settings.sentences}: no language and source of"
            f" {settings.of!r} has so many pairs"
        )
    # The name is part of the seed, so that adding a set does not change the others.
    rng = np.random.default_rng([seed, crc32(made.name.encode())])
    weights = np.sqrt([len(bucket) for bucket in buckets])
    drawn = rng.choice(len(buckets), settings.rows, p=weights / weights.sum())
    counts = rng.integers(LEAST, settings.sentences + 1, settings.rows)
    languages = list(texts.languages)
    for number, (which, count) in enumerate(zip(drawn, counts, strict=True)):
        bucket = buckets[which]
        parts = [bucket[i] for i in rng.choice(len(bucket), count, replace=False)]
        at = texts.language[parts[0][1]]
        whole = _joined(parts, languages[at], texts, limit=made.options.max_characters)
        taught = tuple(english for english, _ in parts)
        name = f"{made.name}:{number}"
        if isinstance(settings, Joined):
            cells = {SENTENCE: whole[0], SENTENCE + at: whole[1]}
            made.append(Draft(name, cells, taught={"sentence": taught}))
        else:
            asked = parts[int(rng.integers(len(parts)))]
            cells = {QUERY: asked[0], QUERY + at: asked[1]}
            cells |= {PASSAGE: whole[0], PASSAGE + at: whole[1]}
            made.append(Draft(name, cells, taught={"passage": taught}))


def _buckets(of: DraftSet, texts: Texts) -> Iterator[list[tuple[int, int]]]:
    buckets: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for draft in of.drafts:
        if SENTENCE in draft.cells:
            for language, text in translations(draft):
                buckets[language, texts.source[text]].append((draft.cells[SENTENCE], text))
    return iter(buckets.values())


def _joined(
    parts: list[tuple[int, int]], language: str, texts: Texts, *, limit: int
) -> tuple[int, int]:
    """Both long texts; `parts` is shortened in place until they fit."""
    gap = "" if language in UNSPACED else " "
    while True:
        english = " ".join(texts.texts[english] for english, _ in parts)
        foreign = gap.join(texts.texts[foreign] for _, foreign in parts)
        if len(parts) == LEAST or max(len(english), len(foreign)) <= limit:
            break
        parts.pop()
    return (
        texts.number(english[:limit], ENGLISH, SOURCE),
        texts.number(foreign[:limit], language, SOURCE),
    )

"""Golden queries of a run's bundle: held-out translations of one another, in every language there is."""

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from service.golden import GoldenQuery, golden_line
from training.config.batches import ENGLISH
from training.corpus import HeldOut
from training.groups import normalised

LARGEST = 200_000
"""Bytes of all of them together."""
LONGEST = 1000
"""Characters of a text; a longer one says less for its size."""


def golden_of(pairs: Sequence[HeldOut], *, most: int, seed: int) -> list[GoldenQuery]:
    """Sentences with their translations, each asked and found in all of its languages.

    Every language but English has at most `most` of them, and where they do not all fit, as many
    as any other one that has so many. No text of a language occurs twice: each has one answer.
    """
    groups = _groups(pairs)
    drawn = list(groups)
    random.Random(seed).shuffle(drawn)  # noqa: S311 - nothing is secret
    languages = sorted({language for texts in groups.values() for language in texts})
    waiting = {code: deque(one for one in drawn if code in groups[one]) for code in languages}
    chosen = _Chosen(most)
    for wanted in range(1, most + 1):
        for language, queue in waiting.items():
            while chosen.counts[language] < wanted and queue and not chosen.full:
                english = queue.popleft()
                chosen.offer(english, groups[english], wanted=language)
    return chosen.queries


class _Chosen:
    """What was taken so far, within the bounds on a language and on all."""

    def __init__(self, most: int) -> None:
        self.queries: list[GoldenQuery] = []
        self.counts: Counter[str] = Counter()
        self.full = False
        self._most = most
        self._size = 0
        self._seen: set[tuple[str, str]] = set()

    def offer(self, english: str, translations: Mapping[str, str], *, wanted: str) -> None:
        """Take a sentence in the languages that lack some, if `wanted` is one of them."""
        texts = {
            language: text
            for language, text in sorted(translations.items())
            if self.counts[language] < self._most and self._is_new(language, text)
        }
        if wanted not in texts or not self._is_new(ENGLISH, english):
            return
        spoken = {ENGLISH: english, **texts}
        query = GoldenQuery(spoken, spoken)
        self._size += len(golden_line(query))
        self.full = self._size > LARGEST
        if not self.full:
            self.queries.append(query)
            self.counts.update(spoken.keys())
            self._seen.update((language, normalised(text)) for language, text in spoken.items())

    def _is_new(self, language: str, text: str) -> bool:
        return (language, normalised(text)) not in self._seen


def _groups(pairs: Sequence[HeldOut]) -> dict[str, dict[str, str]]:
    """By English sentence its translations, one into each language."""
    groups: dict[str, dict[str, str]] = {}
    for pair in pairs:
        if pair.language != ENGLISH and _fit(pair.english, pair.foreign):
            groups.setdefault(pair.english, {}).setdefault(pair.language, pair.foreign)
    return groups


def _fit(*texts: str) -> bool:
    """Whether they can be golden: texts of a bounded length, and not the same one in two languages."""
    keys = {normalised(text) for text in texts}
    return (
        all(keys)
        and len(keys) == len(texts)
        and all(len(text) <= LONGEST and "\0" not in text for text in texts)
    )

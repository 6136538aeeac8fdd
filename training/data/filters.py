"""What is taken out after everything was read: odd lengths, held-out sentences, evaluated texts."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from statistics import median

from training.corpus import HeldOut
from training.data.drafts import WIDTH, Draft, DraftSet, Texts, cell
from training.groups import normalised
from training.leaks import Evaluated, Leaks

HELD_OUT_PER_LANGUAGE = 256
SENTENCE = cell("sentence", 0)
"""The English sentence; its translations follow."""


def translations(draft: Draft) -> Iterator[tuple[int, int]]:
    """Language and text of the sentences that are not English."""
    for c, text in draft.cells.items():
        if SENTENCE < c < SENTENCE + WIDTH:
            yield c - SENTENCE, text


def drop_odd_lengths(
    sets: Sequence[DraftSet], texts: Texts, *, max_ratio: float, left_out: Counter[str]
) -> None:
    """Leave out translations that are much longer or shorter than their language's usually are.

    Sentences without an English side cannot be judged, and stay.
    """
    ratios: dict[int, list[tuple[float, Draft]]] = defaultdict(list)
    for draft in (draft for one in sets for draft in one.drafts if SENTENCE in draft.cells):
        english = len(texts.texts[draft.cells[SENTENCE]])
        for language, text in translations(draft):
            ratios[language].append((len(texts.texts[text]) / english, draft))
    for language, measured in ratios.items():
        usual = median(ratio for ratio, _ in measured)
        for ratio, draft in measured:
            if not usual / max_ratio <= ratio <= usual * max_ratio:
                left_out["data.max_length_ratio"] += 1
                del draft.cells[SENTENCE + language]
                _leave_out_if_alone(draft)


def hold_out(
    sets: Sequence[DraftSet], texts: Texts, *, share: float
) -> dict[str, list[tuple[int, int]]]:
    """Take groups out by a hash of the English sentence, and return their pairs by language.

    So a sentence is held out in all languages, files and sets, or in none.
    """
    aside: dict[str, list[tuple[int, int]]] = defaultdict(list)
    languages = list(texts.languages)
    for draft in (draft for one in sets for draft in one.drafts if SENTENCE in draft.cells):
        english = draft.cells[SENTENCE]
        if _is_held_out(texts.texts[english], share):
            for language, text in translations(draft):
                aside[languages[language]].append((english, text))
            draft.cells = {}
    return aside


def _is_held_out(english: str, share: float) -> bool:
    digest = blake2b(normalised(english).encode(), digest_size=4).digest()
    return int.from_bytes(digest) < share * 2**32


def never_seen(
    aside: dict[str, list[tuple[int, int]]], texts: Texts, trained: frozenset[int]
) -> list[HeldOut]:
    """The held-out pairs of which neither side is in training elsewhere, in a limited number.

    `trained` are the keys of all texts that are trained on.
    """
    kept = []
    for language in sorted(aside):
        pairs = [
            (english, text)
            for english, text in dict.fromkeys(aside[language])
            if texts.keys[english] not in trained and texts.keys[text] not in trained
        ]
        kept += [
            HeldOut(language, texts.texts[english], texts.texts[text])
            for english, text in pairs[:HELD_OUT_PER_LANGUAGE]
        ]
    return kept


def find_leaks(
    sets: Sequence[DraftSet], texts: Texts, evaluated: Evaluated, leaks: Leaks, *, drop: bool
) -> None:
    """Count the texts that are evaluated and, if wished, take them out.

    An English text takes its translations of the same role along, for they say the same.
    """
    found: dict[int, str | None] = {}
    languages, sources = list(texts.languages), list(texts.sources)

    def benchmark_of(text: int) -> str | None:
        if text not in found:
            language = languages[texts.language[text]]
            found[text] = name = evaluated.find(texts.texts[text], language)
            if name is not None:
                leaks.add(name, language, sources[texts.source[text]], texts.texts[text])
        return found[text]

    for draft in (draft for one in sets for draft in one.drafts):
        leaking = {c for c, text in draft.cells.items() if benchmark_of(text) is not None}
        targets = {
            cell(role, 0)
            for role, taught in draft.taught.items()
            if any([benchmark_of(text) is not None for text in taught])  # noqa: C419 - count all
        }
        if drop and (leaking or targets):
            whole = {c // WIDTH for c in leaking | targets if c % WIDTH == 0}
            draft.cells = {
                c: text
                for c, text in draft.cells.items()
                if c not in leaking and c // WIDTH not in whole
            }
            _leave_out_if_alone(draft)


def _leave_out_if_alone(draft: Draft) -> None:
    if len(draft.cells) < 2:  # noqa: PLR2004
        draft.cells = {}

"""Words of a text, as aligners count them: numbers, places in the text, and forms that compare.

Where a language writes spaces, a word is what stands between them, as in Pharaoh files. Chinese is
cut into single characters, Japanese where its scripts meet, and Thai, Lao, Khmer and Burmese into a
consonant with its marks and leading vowel. *Why* no segmenter: each language has another one, and
word pieces that span several such words bring them together again (`training.word_views`).
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""First character and the one after the last."""

_BY_CHARACTER = frozenset({"zh", "yue", "wuu"})
_BY_CLUSTER = frozenset({"th", "lo", "km", "my"})
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
_LONG_SOUND = frozenset("ー々")


def split(text: str, language: str) -> list[Span]:
    """The places of the words; together they hold every character but white space."""
    primary = language.replace("_", "-").split("-")[0].lower()
    found: list[Span] = []
    for start, stop in _between_spaces(text):
        if primary in _BY_CHARACTER or primary == "ja":
            found.extend(_where_scripts_meet(text, start, stop, singles=primary != "ja"))
        elif primary in _BY_CLUSTER:
            found.extend(_clusters(text, start, stop))
        else:
            found.append((start, stop))
    return found


def core(text: str, span: Span) -> Span:
    """The word without punctuation and symbols around it; as it is if nothing would be left."""
    start, stop = span
    while start < stop and not _is_inside(text[start]):
        start += 1
    while stop > start and not _is_inside(text[stop - 1]):
        stop -= 1
    return (start, stop) if start < stop else span


def is_word(text: str, place: Span) -> bool:
    """Whether a core has a letter or a digit, and is not punctuation alone."""
    return _is_inside(text[place[0]])


def form(word: str) -> str:
    """What of a word is compared: its core, without case and width."""
    start, stop = core(word, (0, len(word)))
    return unicodedata.normalize("NFKC", word[start:stop]).casefold()


def _is_inside(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _between_spaces(text: str) -> Iterator[Span]:
    start = None
    for place, character in enumerate(text):
        if character.isspace():
            if start is not None:
                yield start, place
            start = None
        elif start is None:
            start = place
    if start is not None:
        yield start, len(text)


def _where_scripts_meet(text: str, start: int, stop: int, *, singles: bool) -> Iterator[Span]:
    begun, before = start, _script(text[start])
    for place in range(start + 1, stop):
        script = before if text[place] in _LONG_SOUND else _script(text[place])
        if script != before or script == "other" or (singles and script != "letters"):
            yield begun, place
            begun = place
        before = script
    yield begun, stop


@lru_cache(maxsize=8192)
def _script(character: str) -> str:
    if not _is_inside(character):
        return "other"
    name = unicodedata.name(character, "")
    for script in ("CJK UNIFIED", "HIRAGANA", "KATAKANA"):
        if script in name:
            return script
    return "letters"


def _clusters(text: str, start: int, stop: int) -> Iterator[Span]:
    begun = start
    for place in range(start + 1, stop):
        before, here = text[place - 1], text[place]
        joined = (
            unicodedata.category(here)[0] == "M"
            or before in _LEADING_VOWELS
            or (_is_plain(before) and _is_plain(here))
        )
        if not joined:
            yield begun, place
            begun = place
    yield begun, stop


def _is_plain(character: str) -> bool:
    """Letters and digits of scripts that write spaces, e.g. a Latin name in Thai text."""
    return (
        _is_inside(character)
        and not "\u0e00" <= character <= "\u109f"
        and not ("\u1780" <= character <= "\u17ff")
    )

"""Languages: which one a text is in, and how a language code is spelt.

Why py3langid: of the libraries that carry their model, know no network and are maintained, it told
most texts right on the project's data, short ones above all (the table is in training/LOG.md), for
a BSD licence and 4.6 MB. It is a naive Bayes model over byte n-grams, so a prior belongs to it: the
languages that the encoder was trained for count twice. That stops short Indonesian from being Malay
and English from being Nigerian Pidgin; the price is paid by short texts in their close relatives
that are not expected (Galician, Marathi), and a caller who knows the language says it anyway.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from threading import Lock

import langcodes
from py3langid.langid import MODEL_FILE
from py3langid.langid import LanguageIdentifier as NaiveBayes

from service.errors import InvalidInput
from service.types import UNDETERMINED

LONGEST_CODE = 35
"""Characters; RFC 5646, section 4.4.1, asks for room for 35."""

_ODDS = 2.0
"""How much likelier an expected language is than another before its text is seen."""

_CERTAIN = _ODDS / (1 + _ODDS)
"""From this share on, the prior cannot change which language wins."""

_READING = Lock()

_WRITTEN_ALIKE = {"arz": "ar", "ary": "ar", "wuu": "zh", "yue": "zh", "uzs": "uz", "nb": "no"}
"""Varieties whose short texts cannot be told from the language that a filter would name."""


@lru_cache(maxsize=4096)
def canonical(code: str) -> str:
    """The one spelling of a BCP-47 code, for example en-US for EN_us, he for iw, zh for cmn.

    Case and separator are set right, deprecated and three-letter codes become the preferred ones,
    and a macrolanguage stands for its dominant member (arb is ar, swh is sw; nb is no, as the
    identifier says). Script and region are kept, so a filter on `zh` does not match `zh-Hant`.

    Raises:
        InvalidInput: The code is not well formed, or no such subtag is registered.
    """
    if len(code) > LONGEST_CODE or not code.isascii():
        raise InvalidInput(
            f"{code[:LONGEST_CODE]!r} is no BCP-47 language code such as en or pt-BR"
        )
    if not langcodes.tag_is_valid(code):
        raise InvalidInput(f"{code!r} is malformed, or names a language or region that is unknown")
    tag = langcodes.standardize_tag(code, macro=True)
    return "-".join(["no", *tag.split("-")[1:]]) if tag.split("-")[0] == "nb" else tag


class LanguageIdentifier:
    """Tells the language of texts; synchronous, and safe to call from several threads.

    The first of a process reads the model, which takes half a second; the others share it.
    `expected` are the languages of the encoder. Below `min_confidence` the answer is `und`: on the
    project's data, half of the answers refused so would have been wrong. Only the first
    `max_characters` are read, because accuracy no longer grows after them and time does.
    Chinese is `zh` in either script, and Norwegian Bokmål `no`.
    """

    def __init__(
        self,
        *,
        expected: Collection[str] = (),
        min_confidence: float = 0.2,
        max_characters: int = 256,
    ) -> None:
        self._model = load_model()
        self._names = {label: _name(label) for label in self._model.labels}
        self._expected = frozenset(canonical(code).split("-")[0] for code in expected)
        self._min_confidence = min_confidence
        self._max_characters = max_characters

    @property
    def languages(self) -> frozenset[str]:
        """Every code that an answer can have."""
        return frozenset(self._names.values()) | {UNDETERMINED}

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The code and the confidence, from 0 to 1, of each text.

        Under `und` the confidence is that of the guess which was not given, or the certainty
        that the text is in no language at all.
        """
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> tuple[str, float]:
        head = " ".join(text[: self._max_characters].split())
        if not any(character.isalpha() for character in head):
            return UNDETERMINED, 0.0
        label, confidence = self._model.classify(head)
        name = self._names[label]
        if confidence < _CERTAIN:  # one text in seven: ranking all labels takes twice as long
            name, confidence = self._weighed(head)
        return (name if confidence >= self._min_confidence else UNDETERMINED), float(confidence)

    def _weighed(self, text: str) -> tuple[str, float]:
        """The best language after the prior, and its share."""
        shares: defaultdict[str, float] = defaultdict(float)
        for label, share in self._model.rank(text):
            name = self._names[label]
            shares[name] += share * (_ODDS if name in self._expected else 1.0)
        best = max(shares, key=shares.__getitem__)
        return best, shares[best] / sum(shares.values())


def load_model() -> NaiveBayes:
    """The model of all identifiers of this process; whoever asks while it is read waits for it."""
    with _READING:
        return _read_model()


@cache
def _read_model() -> NaiveBayes:
    return NaiveBayes.from_model_file(MODEL_FILE, norm_probs=True)


def _name(label: str) -> str:
    """The BCP-47 code for a label of the model; text without language is undetermined."""
    return UNDETERMINED if label == "zxx" else canonical(_WRITTEN_ALIKE.get(label, label))

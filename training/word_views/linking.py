"""The links of a stage's pairs: aligned once, remembered on disk, and which of them may be marked."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.alignment.aligner import open_aligner
from training.alignment.linked_pairs import LinkedPairs, fingerprint
from training.alignment.links import checked
from training.alignment.lookup import Entry
from training.alignment.words import form, split
from training.config.batches import TextRole, Translation, Words
from training.corpus import NOTHING, Corpus, Ids
from training.model import SentenceEncoder
from training.vocabulary import Pieces
from training.word_views.tokens import single

ROLE: TextRole = "sentence"
CHUNK = 20_000
"""Texts that are tokenised at a time."""


class NothingLinked(ValueError):
    """A stage that needs word links has none."""


def link_feed(
    corpus: Corpus,
    pieces: Pieces,
    feed: Words | Translation,
    *,
    encoder: SentenceEncoder,
    data_folder: Path,
    seed: Sequence[int],
    cache: Path | None,
) -> LinkedPairs:
    """The links of all pairs of the feed's pivot language and another one, the pivot first.

    Every language is aligned by itself. With `cache`, a folder, what was found is kept there; the
    same texts, settings and `seed` find it again.

    Raises:
        NothingLinked: the pivot language is not in the corpus.
        LinksInvalid: links that the recipe names are not there or not right.
        AlignerFailed: the recipe's aligner program failed.
    """
    if feed.pivot not in corpus.languages:
        raise NothingLinked(
            f"{feed.kind} batches: there is no text in pivot = {feed.pivot!r}, only in"
            f" {', '.join(corpus.languages)}"
        )
    linked = []
    for language in corpus.languages:
        if language == feed.pivot or (feed.languages and language not in feed.languages):
            continue
        pairs = _pairs(corpus, feed, language)
        if not len(pairs[0]):
            continue
        name = fingerprint(
            [feed.aligner.model_dump_json(), feed.pivot, language, repr(list(seed))],
            corpus.texts,
            pairs,
        )
        place = None if cache is None else cache / f"links-{feed.pivot}-{language}-{name}.npz"
        found = None if place is None else LinkedPairs.read(place)
        if found is None:
            aligner = open_aligner(
                feed.aligner,
                source=feed.pivot,
                target=language,
                given=list(_given(corpus, feed, language)),
                encoder=encoder,
                pieces=pieces,
                data_folder=data_folder,
            )
            found = LinkedPairs.align(aligner, corpus.texts, pairs, (feed.pivot, language))
            if place is not None:
                found.write(place)
        linked.append(found)
    return LinkedPairs.joined(linked)


def markable(
    corpus: Corpus, pieces: Pieces, pairs: LinkedPairs, *, stop_words: int
) -> NDArray[np.bool_]:
    """Which links ML-CTL may mark, [links].

    Both words have a letter, are none of the `stop_words` most frequent ones of their language
    among these texts, and lie before the place where their text is cut.
    """
    stopped = _most_frequent(corpus, pairs, stop_words)
    limits = _limits(corpus, pieces, pairs)
    sizes = np.diff(pairs.starts)
    kept = np.ones(len(pairs.places), np.bool_)
    for numbers, columns in ((pairs.source, (0, 1)), (pairs.target, (2, 3))):
        texts = np.repeat(numbers, sizes)
        kept &= pairs.places[:, columns[1]] <= limits[texts]
        for link in np.flatnonzero(kept).tolist():
            text = int(texts[link])
            start, stop = pairs.places[link, list(columns)].tolist()
            word = form(corpus.texts[text][start:stop])
            known = stopped[int(corpus.text_language[text])]
            kept[link] = word not in known and any(map(_is_letter, word))
    return kept


def _pairs(corpus: Corpus, feed: Words | Translation, language: str) -> tuple[Ids, Ids]:
    """Numbers of the texts that are translations of each other, every pair once."""
    columns = [corpus.languages.index(feed.pivot), corpus.languages.index(language)]
    tables = [corpus.sets[name].texts for name in feed.data]
    rows = [table[ROLE][:, columns] for table in tables if ROLE in table]
    every = np.concatenate([np.zeros((0, 2), np.int64), *rows])
    both = np.unique(every[(every != NOTHING).all(1)], axis=0)
    return both[:, 0].copy(), both[:, 1].copy()


def _given(corpus: Corpus, feed: Words | Translation, language: str) -> Iterator[Entry]:
    """The links that the groups bring, their words split at white space, the pivot first."""
    wanted = {(feed.pivot, language): 1, (language, feed.pivot): -1}
    for name in feed.data:
        table = corpus.sets[name]
        for (group, one, other), links in table.links.items():
            way = wanted.get((one, other))
            if way is None:
                continue
            columns = [corpus.languages.index(code) for code in (feed.pivot, language)]
            numbers = table.texts[ROLE][group, columns]
            if (numbers == NOTHING).any():
                continue
            source, target = (tuple(corpus.texts[number].split()) for number in numbers)
            turned = tuple(sorted(links if way == 1 else ((j, i) for i, j in links)))
            place = f"links of group {table.ids[group]!r} of {name}"
            checked(turned, sizes=(len(source), len(target)), place=place)
            yield Entry(source, target, turned)


def _most_frequent(corpus: Corpus, pairs: LinkedPairs, count: int) -> dict[int, frozenset[str]]:
    """By language, the forms that occur most often; of equally frequent ones the first in order."""
    counts: dict[int, Counter[str]] = {}
    for number in _texts(pairs).tolist():
        language = int(corpus.text_language[number])
        text = corpus.texts[number]
        words = split(text, corpus.languages[language])
        counts.setdefault(language, Counter()).update(text[a:b] for a, b in words)
    found = {}
    for language, words_of in counts.items():
        forms: Counter[str] = Counter()
        for word, times in words_of.items():
            forms[form(word)] += times
        ranked = sorted(forms, key=lambda word: (-forms[word], word))
        found[language] = frozenset(ranked[:count])
    return found


def _limits(corpus: Corpus, pieces: Pieces, pairs: LinkedPairs) -> Ids:
    """The character where each text of the corpus is cut; beyond its end if it is not."""
    limits = np.full(len(corpus.texts), np.iinfo(np.int32).max, np.int64)
    numbers = _texts(pairs).tolist()
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        encodings = pieces.tokenizer.encode_batch_fast([corpus.texts[n] for n in chunk])
        long = [n for n, e in zip(chunk, encodings, strict=True) if len(e) > pieces.max_tokens]
        for number, tokens in zip(
            long, single(pieces, [corpus.texts[n] for n in long]), strict=True
        ):
            if tokens.limits[0] is not None:
                limits[number] = tokens.limits[0]
    return limits


def _texts(pairs: LinkedPairs) -> Ids:
    return np.unique(np.concatenate([pairs.source, pairs.target]))


def _is_letter(character: str) -> bool:
    return unicodedata.category(character).startswith("L")

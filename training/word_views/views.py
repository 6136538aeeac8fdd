"""The views of `words` and `translation` batches, from links between words to pieces.

Links are places of characters, and the tokenizer says which characters a piece stands for: nothing
counts pieces, so any tokenizer will do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.alignment.linked_pairs import Places
from training.alignment.words import Span, core, split
from training.batch import View
from training.config.batches import Translation, Words
from training.config.methods import Method, MlCtl, Weam
from training.corpus import Corpus, Ids
from training.losses import NO_LABEL
from training.model import SentenceEncoder
from training.vocabulary import Pieces
from training.word_views.corruption import OUTSIDE, Corruption
from training.word_views.linking import NothingLinked, link_feed, markable
from training.word_views.tokens import SPECIAL, Tokens, joined, single

Numbers: TypeAlias = NDArray[np.int64]
SOURCE, TARGET = 0, 1


class WordViews:
    """Pairs with one marked word each (`words`), or translations joined with links (`translation`)."""

    def __init__(
        self,
        corpus: Corpus,
        pieces: Pieces,
        feed: Words | Translation,
        methods: Sequence[Method],
        *,
        encoder: SentenceEncoder,
        data_folder: Path,
        seed: Sequence[int] = (),
        cache: Path | None = None,
    ) -> None:
        """Align the feed's pairs, or read their links from the folder `cache` if they are there.

        `methods` are the stage's. `seed` tells the stages of a run apart in the cache: links of a
        `states` aligner are those of the encoder as it is when the stage begins.

        Raises:
            LinksInvalid: links that the recipe names are not there or not right.
            AlignerFailed: the recipe's aligner program failed.
            NoMaskPiece: a method masks and the tokenizer cannot.
            NothingLinked: no pair has a link that could be used.
        """
        self._corpus = corpus
        self._pieces = pieces
        self._corruption = _corruption(feed, methods, pieces)
        self._pairs = link_feed(
            corpus, pieces, feed, encoder=encoder, data_folder=data_folder, seed=seed, cache=cache
        )
        self._pivot = corpus.languages.index(feed.pivot)
        self._marks = isinstance(feed, Words)
        if isinstance(feed, Words):
            kept = markable(corpus, pieces, self._pairs, stop_words=feed.stop_words)
            self._pairs = self._pairs.kept(kept)
        if not len(self._pairs.places):
            raise NothingLinked(
                f"{feed.kind} batches of {', '.join(feed.data)}: aligner {feed.aligner.kind!r} left"
                f" no linked words that can be used in {len(self._pairs)} pairs of {feed.pivot} and"
                " another language"
            )

    def usable(self, source_texts: Ids, target_texts: Ids) -> NDArray[np.bool_]:
        """Which rows have a word to mark, or links; the texts are numbers in the corpus, [rows]."""
        found: NDArray[np.bool_] = self._pairs.counts(self._find(source_texts, target_texts)) > 0
        return found

    def build(
        self, source_texts: Ids, target_texts: Ids, rng: np.random.Generator
    ) -> dict[str, View]:
        """The views of usable rows, on the CPU.

        `words`: `source` and `target` with `span`, and if a method masks, `masked_source` and
        `masked_target` with `span` and `labels`. `translation`: `joined` with `labels`, `partner`,
        `clean` and `words`.
        """
        found = self._find(source_texts, target_texts)
        turned = self._turned(source_texts).tolist()
        links = [
            self._pairs.of(pair)[:, [2, 3, 0, 1] if turn else [0, 1, 2, 3]]
            for pair, turn in zip(found.tolist(), turned, strict=True)
        ]
        if self._marks:
            return self._marked(source_texts.tolist(), target_texts.tolist(), links, rng)
        return {"joined": self._joined(source_texts.tolist(), target_texts.tolist(), links, rng)}

    def _turned(self, source_texts: Ids) -> NDArray[np.bool_]:
        """Where the pivot language, which comes first in the links, comes second."""
        turned: NDArray[np.bool_] = self._corpus.text_language[source_texts] != self._pivot
        return turned

    def _find(self, source_texts: Ids, target_texts: Ids) -> Ids:
        turned = self._turned(source_texts)
        return self._pairs.find(
            np.where(turned, target_texts, source_texts),
            np.where(turned, source_texts, target_texts),
        )

    def _marked(
        self,
        sources: list[int],
        targets: list[int],
        links: list[Places],
        rng: np.random.Generator,
    ) -> dict[str, View]:
        chosen = [places[rng.integers(len(places))].tolist() for places in links]
        views: dict[str, View] = {}
        for name, texts, columns in (
            ("source", sources, slice(0, 2)),
            ("target", targets, slice(2, 4)),
        ):
            rows = single(self._pieces, [self._corpus.texts[text] for text in texts])
            span = torch.tensor(
                [
                    row.pieces((place[columns][0], place[columns][1]), SOURCE) or _lost(place)
                    for row, place in zip(rows, chosen, strict=True)
                ]
            )
            views[name] = _view(self._pieces, [row.ids for row in rows], {}, {"span": span})
            if self._corruption is not None:
                # Every piece that stands for text is a unit of its own, as in BERT.
                drawn = [
                    self._corruption(
                        row.ids,
                        np.where(row.side == SPECIAL, OUTSIDE, np.arange(len(row.ids))),
                        rng,
                    )
                    for row in rows
                ]
                views[f"masked_{name}"] = _view(
                    self._pieces,
                    [ids for ids, _ in drawn],
                    {"labels": [labels for _, labels in drawn]},
                    {"span": span},
                )
        return views

    def _joined(
        self,
        sources: list[int],
        targets: list[int],
        links: list[Places],
        rng: np.random.Generator,
    ) -> View:
        texts = self._corpus.texts
        rows = joined(
            self._pieces, [texts[text] for text in sources], [texts[text] for text in targets]
        )
        ids: list[Numbers] = []
        extra: dict[str, list[Numbers]] = {
            name: [] for name in ("labels", "partner", "clean", "words")
        }
        for row, source, target, places in zip(rows, sources, targets, links, strict=True):
            words = self._owners(row, source, target)
            shown, labels = (
                (row.ids, np.full_like(row.ids, NO_LABEL))
                if self._corruption is None
                else self._corruption(row.ids, words, rng)
            )
            ids.append(shown)
            extra["labels"].append(labels)
            extra["partner"].append(partners(row, places))
            extra["clean"].append(row.ids)
            extra["words"].append(words)
        return _view(self._pieces, ids, extra, {})

    def _owners(self, row: Tokens, source: int, target: int) -> Numbers:
        """The word of every piece, counted on from the source to the target."""
        first = row.owners(self._words(source), SOURCE)
        second = row.owners(self._words(target), TARGET)
        return np.where(second == OUTSIDE, first, second + 1 + first.max(initial=OUTSIDE))

    def _words(self, text: int) -> list[Span]:
        whole = self._corpus.texts[text]
        language = self._corpus.languages[int(self._corpus.text_language[text])]
        return [core(whole, span) for span in split(whole, language)]


def _lost(place: list[int]) -> tuple[int, int]:
    raise ValueError(f"the linked words at characters {place} have no piece; is the row usable?")


def partners(row: Tokens, places: Places) -> Numbers:
    """The position that each one is exchanged with, its own where nothing is linked, [length].

    Piece r of a word goes with piece min(r, last) of the other; for words of equal length this is
    a swap. Links beyond the cut, and words that share a piece with another linked one, are left
    out.
    """
    partner = np.arange(len(row.ids), dtype=np.int64)
    claims = np.zeros(len(row.ids), np.int64)
    found: list[tuple[Numbers, Numbers]] = []
    for begin, end, other_begin, other_end in places.tolist():
        source = row.pieces((begin, end), SOURCE)
        target = row.pieces((other_begin, other_end), TARGET)
        if source is not None and target is not None:
            left = np.arange(source[0], source[1] + 1)
            right = np.arange(target[0], target[1] + 1)
            claims[left] += 1
            claims[right] += 1
            found.append((left, right))
    for left, right in found:
        if claims[left].max() == 1 and claims[right].max() == 1:
            partner[left] = right[np.minimum(np.arange(len(left)), len(right) - 1)]
            partner[right] = left[np.minimum(np.arange(len(right)), len(left) - 1)]
    return partner


def _view(
    pieces: Pieces,
    ids: Sequence[Numbers],
    by_piece: dict[str, list[Numbers]],
    by_row: dict[str, Tensor],
) -> View:
    """Rows padded to the longest; padding is its own partner, has no label and no word."""
    length = max(map(len, ids))
    fills = {"labels": NO_LABEL, "clean": pieces.pad, "words": OUTSIDE}
    extra = dict(by_row)
    for name, rows in by_piece.items():
        extra[name] = (
            torch.arange(length).repeat(len(rows), 1)
            if name == "partner"
            else torch.full((len(rows), length), fills[name])
        )
        for number, row in enumerate(rows):
            extra[name][number, : len(row)] = torch.from_numpy(row)
    padded = torch.full((len(ids), length), pieces.pad)
    mask = torch.zeros((len(ids), length), dtype=torch.int64)
    for number, row in enumerate(ids):
        padded[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = 1
    return View(padded, mask, extra)


def _corruption(
    feed: Words | Translation, methods: Sequence[Method], pieces: Pieces
) -> Corruption | None:
    """What the stage's method asks for; None if it reads no masked text."""
    for method in methods:
        if isinstance(feed, Translation) and isinstance(method, Weam):
            return Corruption.of(
                pieces,
                method.mask_rate,
                mask_share=method.mask_share,
                random_share=method.random_share,
            )
        if isinstance(feed, Words) and isinstance(method, MlCtl):
            masks = method.mask_views or method.mlm_weight > 0
            return Corruption.of(pieces, method.mask_rate) if masks else None
    return None

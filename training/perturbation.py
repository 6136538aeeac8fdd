"""Perturbed copies of texts, EAR's stand-in for another language: synonyms, near pieces, or noise.

*Why* numpy draws everything: a copy then depends on the generator that it is given alone, not on
the device, the length of the padding or what the encoder drew before. *Why* the nearest pieces are
looked up at every batch: the embeddings move while they are trained, and a table made once would
be another one in a run that was resumed.
"""

import gzip
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, lgamma, sqrt
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from tokenizers import Encoding
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.batch import View
from training.config.methods import Ear, Neighbours, Noise, Synonyms
from training.corpus import Corpus, Ids
from training.model import SentenceEncoder
from training.vocabulary import Pieces

PERTURBED = ("query", "positive")
NO_WORD = -1
WORD = re.compile(r"\S+")
LOOKED_UP = 256
"""Pieces whose similarity to the whole vocabulary is in memory at a time."""
Table: TypeAlias = Mapping[str, Sequence[str]]


class TableInvalid(ValueError):
    """A synonym table cannot be read; the message names the file, the line and what is wrong."""


class _Perturber(Protocol):
    def pair(
        self, view: View, texts: Ids, prompt: str, rng: np.random.Generator
    ) -> tuple[View, View]:
        """The view with what a comparison needs to know of it, and its perturbed copy."""


class Perturbation:
    """Makes the perturbed views of a batch, by the perturber of a stage's `ear`."""

    def __init__(
        self,
        settings: Ear,
        corpus: Corpus,
        pieces: Pieces,
        encoder: SentenceEncoder,
        *,
        data_folder: Path,
    ) -> None:
        self._strict = settings.strict
        self._pad = pieces.pad
        self._perturber: _Perturber
        match settings.perturber:
            case Synonyms(path=path):
                table = read_synonyms(data_folder / path)
                self._perturber = _SynonymPerturber(table, corpus, pieces)
            case Neighbours() as chosen:
                self._perturber = _NeighbourPerturber(chosen, pieces, encoder)
            case Noise(radius=radius):
                self._perturber = _NoisePerturber(radius, encoder)

    def views(
        self,
        views: Mapping[str, View],
        texts: Mapping[str, Ids],
        rng: np.random.Generator,
        *,
        prompts: Mapping[str, str] | None = None,
    ) -> dict[str, View]:
        """Views that replace or join those of the whole batch.

        `perturbed_query` and `perturbed_positive`; and `query` and `positive` once more, because a
        comparison word by word needs their word numbers (`words`), and a strict one the same
        length of padding. `texts` are positions in `Corpus.texts`, `prompts` what stands before
        the texts of a view; prompts are never perturbed.
        """
        found: dict[str, View] = {}
        for name in PERTURBED:
            prompt = (prompts or {}).get(name, "")
            view, copy = self._perturber.pair(views[name], texts[name], prompt, rng)
            if self._strict:
                length = max(view.ids.shape[1], copy.ids.shape[1])
                view, copy = (_fixed(one, length, self._pad) for one in (view, copy))
            found[name], found[f"perturbed_{name}"] = view, copy
        return found


class _SynonymPerturber:
    """Words that stand in the table, as they are written, become one of their neighbours."""

    def __init__(self, table: Table, corpus: Corpus, pieces: Pieces) -> None:
        self._table = table
        self._corpus = corpus
        self._pieces = pieces

    def pair(
        self, view: View, texts: Ids, prompt: str, rng: np.random.Generator
    ) -> tuple[View, View]:
        known = [self._corpus.texts[text] for text in texts]
        changed = [perturb(text, self._table, rng) for text in known]
        _, mask, words = self._encoded(known, prompt)
        if not torch.equal(mask.sum(1), view.mask.sum(1).cpu()):
            raise ValueError(
                "ear: the texts have other numbers of pieces than their view, which therefore"
                f" cannot be numbered by words (prompt {prompt!r})"
            )
        ids, mask, other = self._encoded(changed, prompt)
        device = view.ids.device
        extra = {**view.extra, "words": _padded(words, view.ids.shape[1], NO_WORD).to(device)}
        copy = View(ids.to(device), mask.to(device), {"words": other.to(device)})
        return replace(view, extra=extra), copy

    def _encoded(self, texts: Sequence[str], prompt: str) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and word numbers, [rows, length]."""
        whole = [prompt + text for text in texts]
        found = self._pieces.encode(whole)
        numbers = self._pieces.tokenizer.encode_batch(whole)
        shape = len(texts), max(map(len, found))
        ids = np.full(shape, self._pieces.pad, dtype=np.int64)
        words = np.full(shape, NO_WORD, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, (text, own, encoding) in enumerate(zip(whole, found, numbers, strict=True)):
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
            words[row, : len(own)] = _word_numbers(text, encoding)[: len(own)]
            if own[-1] == self._pieces.end:  # a text that was cut keeps its end piece
                words[row, len(own) - 1] = NO_WORD
        return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(words)


class _NeighbourPerturber:
    """Some pieces become one of the pieces whose input embeddings are nearest by cosine."""

    def __init__(self, settings: Neighbours, pieces: Pieces, encoder: SentenceEncoder) -> None:
        open_to_choice = pieces.size - len(pieces.special) - 1
        if settings.count > open_to_choice:
            raise ValueError(
                f"ear: a piece cannot have {settings.count} neighbours in a vocabulary with"
                f" {open_to_choice} others; lower perturber.count"
            )
        self._settings = settings
        self._special = torch.tensor(sorted(pieces.special), dtype=torch.int64)
        self._pieces = pieces
        self._encoder = encoder

    def pair(
        self, view: View, texts: Ids, prompt: str, rng: np.random.Generator
    ) -> tuple[View, View]:
        del texts  # the pieces say it all
        ids = view.ids.cpu().clone()
        chosen = torch.from_numpy(rng.random(int(view.mask.sum())) < self._settings.share)
        replaced = torch.zeros_like(ids, dtype=torch.bool)
        replaced[view.mask.cpu().bool()] = chosen
        replaced &= ~torch.isin(ids, self._special)
        replaced[:, : self._kept(prompt)] = False
        old = ids[replaced]
        pick = torch.from_numpy(rng.integers(self._settings.count, size=len(old)))
        distinct, where = torch.unique(old, return_inverse=True)
        ids[replaced] = self._nearest(distinct)[where, pick]
        return view, View(ids.to(view.ids.device), view.mask)

    def _kept(self, prompt: str) -> int:
        """Pieces before the text; the space that ends a prompt belongs to the text's first one."""
        if not prompt:
            return 0
        (found,) = self._pieces.encode([prompt.rstrip()])
        return len(found) - int(found[-1] == self._pieces.end)

    @torch.no_grad()
    def _nearest(self, wanted: Tensor) -> Tensor:
        """The nearest pieces of some, nearest first, [pieces, count]; never itself or a special."""
        table = self._encoder.backbone.get_input_embeddings().get_parameter("weight")
        unit = F.normalize(table[: self._pieces.size].float(), dim=-1)
        found = [torch.empty(0, self._settings.count, dtype=torch.int64)]
        for part in torch.split(wanted, LOOKED_UP):
            own = part.to(unit.device)
            cosines = unit[own] @ unit.T
            cosines[:, self._special.to(unit.device)] = -torch.inf
            cosines[torch.arange(len(own), device=unit.device), own] = -torch.inf
            found.append(cosines.topk(self._settings.count).indices.cpu())
        return torch.cat(found)


class _NoisePerturber:
    """The same pieces, with Gaussian noise to be added to the embedding layer's output."""

    def __init__(self, radius: float, encoder: SentenceEncoder) -> None:
        self._radius = radius
        self._encoder = encoder

    def pair(
        self, view: View, texts: Ids, prompt: str, rng: np.random.Generator
    ) -> tuple[View, View]:
        del texts, prompt
        lengths = self._lengths(view)
        width = self._encoder.width
        drawn = rng.standard_normal((int(view.mask.sum()), width), dtype=np.float32)
        noise = torch.zeros(*view.ids.shape, width, device=view.ids.device)
        noise[view.mask.bool()] = torch.from_numpy(drawn).to(view.ids.device)
        scale = self._radius / expected_length(width)
        noise *= scale * lengths.to(view.ids.device).unsqueeze(-1)
        return view, View(view.ids, view.mask, {"noise": noise})

    @torch.no_grad()
    def _lengths(self, view: View) -> Tensor:
        """The length of every vector that the embedding layer puts out without dropout."""
        layer = self._encoder.backbone.get_submodule("embeddings")
        training = layer.training
        layer.eval()
        try:
            device = next(layer.parameters()).device
            embedded: Tensor = layer(input_ids=view.ids.to(device))
            lengths: Tensor = torch.linalg.vector_norm(embedded.float(), dim=-1)
        finally:
            layer.train(training)
        return lengths


def expected_length(width: int) -> float:
    """The mean length of a vector of so many independent standard normal numbers."""
    return sqrt(2.0) * exp(lgamma((width + 1) / 2) - lgamma(width / 2))


def perturb(text: str, table: Table, rng: np.random.Generator) -> str:
    """The text with every word of the table drawn from itself and its neighbours, alike likely.

    Words are what stands between spaces (as in the code of EAR), so their number stays.
    """
    words = text.split(" ")
    for number, word in enumerate(words):
        if neighbours := table.get(word):
            drawn = int(rng.integers(len(neighbours) + 1))
            words[number] = word if drawn == 0 else neighbours[drawn - 1]
    return " ".join(words)


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """A table of one word a line: the word, a tab, its neighbours separated by spaces.

    Raises:
        TableInvalid: the file cannot be read, holds nothing, or a line has no tab or no word.
    """
    table: dict[str, tuple[str, ...]] = {}
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, tab, neighbours = line.rstrip("\n").partition("\t")
                if not tab or not word or " " in word:
                    raise TableInvalid(
                        f"{path}:{number}: {line.strip()[:60]!r} is not a word, a tab and its"
                        " neighbours (ear: perturber.path)"
                    )
                table[word] = tuple(neighbours.split())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TableInvalid(f"{path}: {error} (ear: perturber.path)") from error
    if not any(table.values()):
        raise TableInvalid(f"{path}: no word has a neighbour (ear: perturber.path)")
    return table


def _word_numbers(text: str, encoding: Encoding) -> list[int]:
    """The whitespace-separated word that each piece ends in, NO_WORD for special pieces."""
    starts = [match.start() for match in WORD.finditer(text)]
    numbers: list[int] = []
    for (_, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        # A piece may begin with the space before its word, or be that space.
        here = bisect_right(starts, end - 1) - (0 if text[end - 1 : end].isspace() else 1)
        numbers.append(NO_WORD if special else min(max(here, 0), max(len(starts) - 1, 0)))
    return numbers


def _padded(rows: Tensor, length: int, value: int) -> Tensor:
    return F.pad(rows, (0, length - rows.shape[1]), value=value)


def _fixed(view: View, length: int, pad: int) -> View:
    """The view with padding up to a length, which no part of it may cut."""
    extra = dict(view.extra)
    if "words" in extra:
        extra["words"] = _padded(extra["words"], length, NO_WORD)
    if "noise" in extra:
        extra["noise"] = F.pad(extra["noise"], (0, 0, 0, length - view.ids.shape[1]))
    return View(_padded(view.ids, length, pad), _padded(view.mask, length, 0), extra, fixed=True)

"""Links by mutual arg-max over an encoder's hidden states (SimAlign, Sabet et al. 2020, sec. 3.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.config.aligners import States
from training.groups import Links
from training.model import SentenceEncoder
from training.vocabulary import Pieces

Pairs = Sequence[tuple[list[str], list[str]]]
ROWS = 64


class StatesAligner:
    """A word is the mean of its pieces' states; two are linked if each is the other's nearest."""

    def __init__(self, settings: States, encoder: SentenceEncoder, pieces: Pieces) -> None:
        """Raises ValueError if the encoder has fewer layers."""
        if settings.layer > encoder.layers:
            raise ValueError(
                f"aligner states: layer = {settings.layer}, and the encoder has {encoder.layers};"
                " 0 stands for its embeddings"
            )
        self._settings = settings
        self._encoder = encoder
        self._pieces = pieces

    @torch.no_grad()
    def align(self, pairs: Pairs) -> list[Links]:
        """Links of each pair, by the encoder as it is now, without dropout."""
        order = sorted(range(len(pairs)), key=lambda pair: sum(map(len, pairs[pair])))
        found: list[Links] = [() for _ in pairs]
        training = self._encoder.training
        self._encoder.eval()
        try:
            for start in range(0, len(order), ROWS):
                chosen = order[start : start + ROWS]
                sources = self._words([pairs[number][0] for number in chosen])
                targets = self._words([pairs[number][1] for number in chosen])
                for number, source, target in zip(chosen, sources, targets, strict=True):
                    found[number] = self._mutual(source, target)
        finally:
            self._encoder.train(training)
        return found

    def _words(self, rows: list[list[str]]) -> list[Tensor]:
        """Unit vectors of the words, [words, width]; zeros for words beyond the length limit."""
        pieces = self._pieces
        encodings = pieces.tokenizer.encode_batch(rows, is_pretokenized=True)
        ids, owners = [], []
        for encoding in encodings:
            row, owner = _cut(encoding, pieces)
            ids.append(row)
            owners.append(owner)
        length = max(1, *map(len, ids))
        padded = torch.full((len(ids), length), pieces.pad, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        for number, row in enumerate(ids):
            padded[number, : len(row)] = torch.from_numpy(row)
            mask[number, : len(row)] = 1
        states = self._states(padded, mask)
        vectors = []
        for number, (words, owner) in enumerate(zip(rows, owners, strict=True)):
            here = torch.from_numpy(owner)
            kept = here >= 0
            sums = torch.zeros(len(words), states.shape[-1])
            sums.index_add_(0, here[kept], states[number, : len(owner)][kept])
            vectors.append(F.normalize(sums, dim=-1))
        return vectors

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        device = next(self._encoder.parameters()).device
        found = self._encoder.backbone(
            input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True
        )
        states: Tensor = found.hidden_states[self._settings.layer]
        return states.float().cpu()

    def _mutual(self, source: Tensor, target: Tensor) -> Links:
        if not (len(source) and len(target)):
            return ()
        cosines = source @ target.T
        there, back = cosines.argmax(1), cosines.argmax(0)
        least = self._settings.min_cosine
        return tuple(
            (i, j)
            for i, j in enumerate(there.tolist())
            # A word beyond the length limit has no vector and no neighbour.
            if int(back[j]) == i
            and float(cosines[i, j]) >= least
            and bool(source[i].any())
            and bool(target[j].any())
        )


def _cut(encoding: Encoding, pieces: Pieces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids within the length limit, and the word of each, -1 for special pieces."""
    ids = np.array(encoding.ids, np.int64)
    owners = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
    special = np.array(encoding.special_tokens_mask, np.bool_)
    owners[special] = -1
    kept = special | (np.cumsum(~special) <= pieces.max_tokens - int(special.sum()))
    return ids[kept], owners[kept]

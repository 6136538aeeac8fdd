"""Word pieces: any model's tokenizer with its special ids, a text table, a new student's tokenizer.

A new tokenizer is Unigram over NFKC, lower-cased text. A language gets text in proportion to its
size to the power of `language_exponent`, so that Telugu gets pieces beside Spanish. Characters
beyond the coverage are spelled in byte pieces: unknown scripts stay distinct instead of becoming
one `<unk>`.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import UnigramTrainer
from torch import Tensor

from training.config.recipe import Vocabulary
from training.corpus import Corpus

PAD, START, END, UNKNOWN, MASK = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
"""Of the tokenizers that are learned here; another model's are in its `Pieces`."""
PADS = ("[PAD]", "<pad>", "<|padding|>", "<|endoftext|>")
MASKS = ("[MASK]", "<mask>", "<|mask|>")
LONGEST_PIECE = 16
CHUNK = 20_000
BYTES = 256


class VocabularyTooSmall(ValueError):
    """The recipe asks for fewer pieces than there are characters."""


class TokenizerUnsupported(ValueError):
    """A tokenizer lacks what training cannot do without; the message says what."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tokenizer that neither pads nor cuts by itself, its special ids, and the length limit."""

    tokenizer: Tokenizer
    max_tokens: int
    """Longest text in pieces, special ones included."""
    pad: int
    start: int | None
    """What stands before every text, e.g. [CLS] or <s>."""
    end: int | None
    """What stands after every text, e.g. [SEP] or </s>."""
    mask: int | None
    special: frozenset[int] = field(repr=False)
    """Ids that stand for no text, all of the above included."""
    size: int
    """All ids are below it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, max_tokens: int) -> Self:
        """A private copy of the tokenizer, with the special ids that it names itself.

        Raises:
            TokenizerUnsupported: it has no padding piece.
        """
        own = Tokenizer.from_str(tokenizer.to_str())
        padding = own.padding
        own.no_padding()
        own.no_truncation()
        pad = padding["pad_id"] if padding else _first(own, PADS)
        if pad is None:
            raise TokenizerUnsupported(f"the tokenizer has no padding piece: none of {PADS}")
        framed = own.encode("a")
        frame = framed.special_tokens_mask
        start = framed.ids[0] if frame[0] else None
        end = framed.ids[-1] if frame[-1] else None
        mask = _first(own, MASKS)
        added = own.get_added_tokens_decoder()
        named = {number for number, piece in added.items() if piece.special}
        found = {number for number in (pad, start, end, mask) if number is not None}
        return cls(
            tokenizer=own,
            max_tokens=max_tokens,
            pad=pad,
            start=start,
            end=end,
            mask=mask,
            special=frozenset(named | found),
            size=1 + max(own.get_vocab(with_added_tokens=True).values()),
        )

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The piece ids of each text, at most `max_tokens`; a text that is cut keeps its end piece."""
        return list(self._encoded(texts))

    def _encoded(self, texts: Sequence[str]) -> Iterator[NDArray[np.int32]]:
        for start in range(0, len(texts), CHUNK):
            for encoding in self.tokenizer.encode_batch_fast(list(texts[start : start + CHUNK])):
                ids = np.array(encoding.ids, dtype=np.int32)
                if len(ids) > self.max_tokens:
                    last = ids[-1]
                    ids = ids[: self.max_tokens]
                    if last == self.end:
                        ids[-1] = last
                yield ids


@dataclass(frozen=True, slots=True)
class TokenTable:
    """All texts as word pieces in one flat tensor; a batch is cut out of it on its device."""

    flat: Tensor
    starts: Tensor
    lengths: Tensor
    padding_id: int

    @classmethod
    def of(cls, texts: Iterable[NDArray[np.int32]], *, padding_id: int) -> Self:
        """A table of some texts' ids."""
        rows = list(texts)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return cls(
            flat=torch.from_numpy(np.concatenate([*rows, np.zeros(1, dtype=np.int32)])),
            starts=torch.from_numpy(np.cumsum(lengths) - lengths),
            lengths=torch.from_numpy(lengths),
            padding_id=padding_id,
        )

    def to(self, device: torch.device) -> "TokenTable":
        return TokenTable(
            self.flat.to(device), self.starts.to(device), self.lengths.to(device), self.padding_id
        )

    def padded(self, texts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Ids and mask of some texts, int64 [texts, longest]."""
        column = torch.arange(longest, device=texts.device)
        mask = column < self.lengths[texts].unsqueeze(1)
        position = (self.starts[texts].unsqueeze(1) + column).clamp(max=len(self.flat) - 1)
        ids = torch.where(mask, self.flat[position].long(), self.padding_id)
        return ids, mask.long()


def train_tokenizer(
    corpus: Corpus, options: Vocabulary, *, seed: int, max_tokens: int
) -> Tokenizer:
    """Learn the pieces from a sample of the corpus.

    The sample is fixed by the seed, but the trainer's threads add floats in any order: scores may
    differ in their last digits from call to call, so a run keeps its tokenizer and never relearns.

    Raises:
        VocabularyTooSmall: not even the characters would fit.
    """
    sample = sample_texts(
        corpus,
        sample_characters=options.sample_characters,
        language_exponent=options.language_exponent,
        character_coverage=options.character_coverage,
        seed=seed,
    )
    pieces = options.pieces - BYTES
    characters = len(set[str]().union(*sample))
    if characters + len(SPECIAL) >= pieces:
        raise VocabularyTooSmall(
            f"vocabulary.pieces = {options.pieces} cannot hold {characters} characters and {BYTES}"
            " bytes: raise it, or lower vocabulary.character_coverage"
        )
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        sample,
        UnigramTrainer(
            vocab_size=pieces,
            special_tokens=list(SPECIAL),
            unk_token=UNKNOWN,
            max_piece_length=LONGEST_PIECE,
            show_progress=False,
        ),
        length=len(sample),
    )
    return _with_bytes(tokenizer, max_tokens)


def sample_texts(
    corpus: Corpus,
    *,
    sample_characters: int,
    language_exponent: float,
    character_coverage: float,
    seed: int,
    leave_out: Collection[str] = (),
) -> list[str]:
    """Whole texts, so many characters in all; a language with n of them has a share of n ** exponent.

    Characters beyond the coverage of their language are spaces; languages in `leave_out` have no
    share.
    """
    rng = np.random.default_rng([seed, 2])
    by_language: list[list[int]] = [[] for _ in corpus.languages]
    for text, language in enumerate(corpus.text_language.tolist()):
        if corpus.languages[language] not in leave_out:
            by_language[language].append(text)
    sizes = np.array([sum(len(corpus.texts[t]) for t in texts) for texts in by_language])
    shares = sizes**language_exponent * (sizes > 0)
    budgets = sample_characters * shares / shares.sum()
    sample: list[str] = []
    for texts, budget in zip(by_language, budgets, strict=True):
        chosen, characters = [], 0
        for text in rng.permutation(texts).tolist():
            if characters >= budget:
                break
            chosen.append(corpus.texts[text])
            characters += len(chosen[-1])
        sample += _without_rare_characters(chosen, character_coverage)
    return sample


def _first(tokenizer: Tokenizer, names: Sequence[str]) -> int | None:
    found = (tokenizer.token_to_id(name) for name in names)
    return next((number for number in found if number is not None), None)


def _without_rare_characters(texts: Sequence[str], coverage: float) -> list[str]:
    # The Unigram trainer gives every character that it sees a piece; thousands of rare Chinese
    # ones would crowd out the words of all other languages.
    normalise = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    clean = [normalise.normalize_str(text) for text in texts]
    counts = Counter[str]()
    for text in clean:
        counts.update(text)
    wanted, seen, kept = coverage * counts.total(), 0, set[str]()
    for character, count in counts.most_common():
        if seen >= wanted:
            break
        kept.add(character)
        seen += count
    rare = {ord(character): " " for character in counts.keys() - kept}
    return [text.translate(rare) for text in clean]


def _with_bytes(trained: Tokenizer, max_tokens: int) -> Tokenizer:
    vocabulary = [(piece, score) for piece, score in _scores(trained)]
    lowest = min(score for _, score in vocabulary) - 10.0
    vocabulary += [(f"<0x{byte:02X}>", lowest) for byte in range(BYTES)]
    tokenizer = Tokenizer(
        models.Unigram(vocabulary, unk_id=SPECIAL.index(UNKNOWN), byte_fallback=True)
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B {END}",
        special_tokens=[(piece, SPECIAL.index(piece)) for piece in (START, END)],
    )
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _scores(trained: Tokenizer) -> list[tuple[str, float]]:
    return [
        (piece, float(score)) for piece, score in json.loads(trained.to_str())["model"]["vocab"]
    ]

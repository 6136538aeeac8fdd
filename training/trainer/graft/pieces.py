"""The tokenizer of a grafted encoder: an English teacher's word pieces and new ones for other languages.

English must be cut as the teacher's own tokenizer cuts it, because the teacher's rows mean what they
mean in these cuts: a new piece that English words would be cut with is left out. Pieces that the
English text never uses are pruned; single characters stay. Those that it uses, but seldom beside the
others, as letters of their scripts and endings of their words, are not English any more: they count
as new (`OWN_SHARE`), so that they get a first row from the others' text, and learn from the first step on.

Why the normaliser is another one: BERT's strips all marks, which in Bengali, Hindi, Telugu and Thai
are the vowels. Here NFKC and lower case go first; accents are stripped where `strips_accents` says
so, of Latin and Greek letters alone. And Chinese is not cut into characters: words of several become
pieces. A character without a piece stands alone, and text without spaces is cut after some
characters: otherwise the whole run around it would become one unknown piece.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from training.config.graft import Graft
from training.corpus import Corpus
from training.vocabulary import TokenizerUnsupported, sample_texts

PREFIX = "##"
PAD, UNKNOWN, START, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RUN = 64
"""Characters without a space or a sign, after which a word is cut anyhow."""
ROUNDS = 4
"""How often pieces are counted and thinned out: without one, others are used more often."""
SPARE = 1.6
"""So many times the wanted pieces are learned, of which the most used ones are taken."""
LEAST = 3
"""Uses of a new piece below which it teaches nothing."""
ENGLISH_SHARE = 0.01
"""A new piece is given up if English uses it so often, as a share of what the others do."""
OWN_SHARE = 0.05
"""A piece of the teacher is English only if English uses it so often, as a share of the others."""


@dataclass(frozen=True, slots=True)
class Grafted:
    """The new tokenizer, and where its pieces are from."""

    tokenizer: Tokenizer
    origins: list[int]
    """The teacher's number of each piece that stays English; these come first, others follow."""
    added: int
    """New pieces, and those of the teacher that are rather of the other languages."""


def graft_pieces(corpus: Corpus, teacher: Tokenizer, options: Graft, *, seed: int) -> Grafted:
    """Prune the teacher's pieces by the English text, and learn new ones from all other text.

    Raises:
        TokenizerUnsupported: the teacher's are no word pieces.
    """
    own = _word_pieces(teacher)
    by_language: dict[str, list[str]] = {}
    for text, language in zip(corpus.texts, corpus.text_language.tolist(), strict=True):
        by_language.setdefault(corpus.languages[language], []).append(text)
    english = by_language.get(corpus.languages[0], [])
    kept = _kept(own, teacher, english, least=options.min_count)
    sample = sample_texts(
        corpus,
        sample_characters=options.sample_characters,
        language_exponent=options.language_exponent,
        character_coverage=options.character_coverage,
        seed=seed,
        leave_out=frozenset(corpus.languages[:1]),
    )
    words = _words(sample, options)
    english_words = _words(english, options)
    new = _new_pieces(kept, words, english_words, options)
    used = _used([*kept, *new], words)
    in_english = _used([*kept, *new], english_words)
    stays = [piece in SPECIAL or in_english[piece] >= OWN_SHARE * used[piece] for piece in kept]
    english_pieces = [piece for piece, here in zip(kept, stays, strict=True) if here]
    freed = [piece for piece, here in zip(kept, stays, strict=True) if not here]
    return Grafted(
        tokenizer=_tokenizer([*english_pieces, *freed, *new], options),
        origins=[own[piece] for piece in english_pieces],
        added=len(freed) + len(new),
    )


def _word_pieces(teacher: Tokenizer) -> dict[str, int]:
    model: dict[str, Any] = json.loads(teacher.to_str())["model"]
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix") != PREFIX:
        raise TokenizerUnsupported(
            f"[graft] is for word pieces as BERT has them; the start's are {model.get('type')}"
        )
    pieces: dict[str, int] = model["vocab"]
    if missing := [piece for piece in SPECIAL if piece not in pieces]:
        raise TokenizerUnsupported(
            f"[graft] is for word pieces as BERT has them; the start lacks {', '.join(missing)}"
        )
    return pieces


def _kept(own: dict[str, int], teacher: Tokenizer, english: Sequence[str], least: int) -> list[str]:
    """The teacher's pieces that stay, in their order."""
    counts = Counter[int]()
    plain = Tokenizer.from_str(teacher.to_str())
    plain.no_padding()
    plain.no_truncation()
    for encoding in plain.encode_batch_fast(list(english)):
        counts.update(encoding.ids)
    return [
        piece
        for piece, number in sorted(own.items(), key=lambda item: item[1])
        if piece in SPECIAL
        or len(piece.removeprefix(PREFIX)) == 1
        or (counts[number] >= least and not piece.startswith("[unused"))
    ]


def _new_pieces(
    kept: Sequence[str], words: Counter[str], english_words: Counter[str], options: Graft
) -> list[str]:
    """The most used of the learned pieces that leave English as it is."""
    learned = _learned(words, size=int(SPARE * options.pieces))
    known = set(kept)
    letters = sorted(
        {piece.removeprefix(PREFIX) for piece in learned if len(piece.removeprefix(PREFIX)) == 1}
    )
    # Both forms of a character: a word that lacks one of them would be unknown as a whole.
    alphabet = [form for letter in letters for form in (letter, PREFIX + letter)]
    alphabet = [piece for piece in alphabet if piece not in known]
    known.update(alphabet)
    candidates = [piece for piece in learned if piece not in known]
    for _ in range(ROUNDS):
        pieces = [*kept, *alphabet, *candidates]
        used = _used(pieces, words)
        in_english = _used(pieces, english_words)
        free = [
            piece
            for piece in candidates
            if used[piece] >= LEAST and in_english[piece] <= ENGLISH_SHARE * used[piece]
        ]
        free.sort(key=lambda piece: (-used[piece], piece))
        candidates = free[: max(0, options.pieces - len(alphabet))]
    return [*alphabet, *candidates]


def _words(texts: Iterable[str], options: Graft) -> Counter[str]:
    """Words as the model of the tokenizer meets them."""
    normaliser, cutter = _normaliser(options), _cutter("")
    counts = Counter[str]()
    for text in texts:
        found = cutter.pre_tokenize_str(normaliser.normalize_str(text))
        counts.update(word for word, _ in found)
    return counts


def _learned(words: Counter[str], *, size: int) -> list[str]:
    tokenizer = Tokenizer(models.WordPiece({}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=LEAST,
        show_progress=False,
        continuing_subword_prefix=PREFIX,
        special_tokens=[],
    )
    repeated = (" ".join([word] * count) for word, count in sorted(words.items()))
    tokenizer.train_from_iterator(repeated, trainer)
    return sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)  # type: ignore[arg-type]


def _used(pieces: Sequence[str], words: Counter[str]) -> Counter[str]:
    """How often each piece is used in some words."""
    model = models.WordPiece(
        {piece: number for number, piece in enumerate(pieces)},
        unk_token=UNKNOWN,
        max_input_chars_per_word=2 * RUN,
    )
    tokenizer = Tokenizer(model)
    distinct = list(words)
    counts = Counter[str]()
    for word, encoding in zip(distinct, tokenizer.encode_batch_fast(distinct), strict=True):
        for number in encoding.ids:
            counts[pieces[number]] += words[word]
    return counts


def _normaliser(options: Graft) -> normalizers.Normalizer:
    steps = [
        normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
        ),
        normalizers.NFKC(),
        normalizers.Lowercase(),
    ]
    if options.strips_accents:
        marks = Regex(r"(?<=[\p{Latin}\p{Greek}])[\u0300-\u036F]+")
        steps += [normalizers.NFD(), normalizers.Replace(marks, ""), normalizers.NFC()]
    return normalizers.Sequence(steps)


def _cutter(alphabet: str) -> pre_tokenizers.PreTokenizer:
    """Cuts at spaces and signs, after `RUN` characters, and around what is not in the alphabet."""
    long = pre_tokenizers.Split(Regex(f".{{{RUN}}}"), behavior="isolated")
    steps = [pre_tokenizers.BertPreTokenizer(), long]
    if alphabet:
        steps.insert(1, pre_tokenizers.Split(Regex(f"[^{alphabet}]"), behavior="isolated"))
    return pre_tokenizers.Sequence(steps)


def _alphabet(pieces: Iterable[str]) -> str:
    """Characters that words may have anywhere, as ranges of a regular expression."""
    known = set(pieces)
    letters = {piece for piece in known if len(piece) == 1 and PREFIX + piece in known}
    ranges: list[list[int]] = []
    for code in sorted(ord(letter) for letter in letters):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges)


def _tokenizer(pieces: Sequence[str], options: Graft) -> Tokenizer:
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.WordPiece(numbers, unk_token=UNKNOWN, max_input_chars_per_word=2 * RUN)
    )
    tokenizer.normalizer = _normaliser(options)
    tokenizer.pre_tokenizer = _cutter(_alphabet(pieces))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B {END}",
        special_tokens=[(piece, numbers[piece]) for piece in (START, END)],
    )
    return tokenizer

"""Passages: where a document is cut, so that each piece fits the encoder whole.

Boundaries come from semantic-text-splitter (Unicode's paragraphs, sentences, words, graphemes, in
that order, so it needs no language); this module tells it what fits. Why by a callback and not by
its own tokenizer mode: the callback counts the very text that will be embedded, prompt, title and
special tokens included, so no sum of parts has to be trusted; it refuses hopeless lengths without
tokenising them, which keeps an endless word linear; and the vocabulary is not copied.
"""

from collections.abc import Sequence

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from service.types import Document, Span

LEAST_ROOM = 16
"""Tokens that prompt and special tokens must leave: some characters alone take a dozen."""

_TITLE_SHARE = 4
"""A title takes at most this part, a quarter, of what prompt and special tokens leave."""

_FITS, _TOO_LONG = 1, 3
"""Sizes for the splitter. It takes for granted that no text is larger than its bytes, which is not
so for tokens beside a title; and it stops filling at a size that equals its capacity (2)."""

_PROBES = (" ", "a,b. c-d\n", "é한क 中😀", "ﬃ½ㇿ")
"""Texts of short words and rare characters, for a tokenizer that makes tokens out of nothing."""


class Chunker:
    """Cuts documents into passages of at most `max_tokens` tokens, prompt and title included.

    `tokenizer` is shared and never changed, so it must neither truncate nor pad. No passage is
    longer than `max_characters`, however few tokens it takes (one unknown word of a megabyte can
    be a single token), and so the encoder's own limit on characters is respected too.
    Every method may be called from several threads; nearly all time is spent without the GIL.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_tokens: int, max_characters: int, prompt: str = ""
    ) -> None:
        if tokenizer.truncation is not None or tokenizer.padding is not None:
            raise ValueError("the chunker needs a tokenizer that neither truncates nor pads")
        self._tokenizer = tokenizer
        self._normalizer = tokenizer.normalizer
        self._max_tokens = max_tokens
        self._max_characters = max_characters
        self._prompt = prompt
        self._added = tokenizer.num_special_tokens_to_add(is_pair=False)
        self._room = max_tokens - self._tokens([prompt])[0]
        if self._room < LEAST_ROOM:
            raise ValueError(
                f"{max_tokens} tokens leave {self._room} for text after the prompt and the special"
                f" tokens, and {LEAST_ROOM} are needed"
            )
        self._bytes_bound_tokens = all(
            self._tokens([text])[0] <= self._bound(text) for text in _PROBES
        )

    def split(self, text: str, *, title: str = "") -> list[Span]:
        """The passages of one text; see `split_many`."""
        return self.split_many([Document(id="", text=text, title=title)])[0]

    def split_many(self, documents: Sequence[Document]) -> list[list[Span]]:
        """The passages of each document, in order, at least one each.

        Spans do not overlap, begin and end with a character that is no white space, and hold
        every such character between them. A passage fits when it is embedded after its
        `heading` and a line break.
        """
        headings = self._headings(documents)
        spans = [[_stripped(document.text)] for document in documents]
        unsure: list[int] = []
        embedded: list[str] = []
        for number, (document, heading) in enumerate(zip(documents, headings, strict=True)):
            span = spans[number][0]
            text = self._embedded(heading, document.text[span.start : span.end])
            if span.end - span.start > self._max_characters:
                spans[number] = self._cut(document.text, heading)
            elif not self._at_most(text, self._max_tokens):
                unsure.append(number)
                embedded.append(text)
        for number, tokens in zip(unsure, self._tokens(embedded), strict=True):
            if tokens > self._max_tokens:
                spans[number] = self._cut(documents[number].text, headings[number])
        return spans

    def whole(self, title: str, text: str) -> str:
        """What is embedded of a passage: the heading above the text."""
        return f"{self.heading(title)}\n{text}" if title else text

    def heading(self, title: str) -> str:
        """As much of a title as is embedded before each passage: a quarter of the room at most.

        A title that is longer would leave the passages of its document too little; it is clipped
        for the embedding only, and shown whole.
        """
        share = self._room // _TITLE_SHARE
        if self._at_most(title, share):
            return title
        clipped = title[: self._max_characters // _TITLE_SHARE]
        encoding = self._tokenizer.encode(clipped, add_special_tokens=False)
        if len(encoding) > share:
            clipped = clipped[: encoding.offsets[share - 1][1]]
        return clipped

    def _headings(self, documents: Sequence[Document]) -> list[str]:
        """The heading of each document; many documents of a request share their title."""
        known = {document.title: "" for document in documents}
        for title in known:
            known[title] = self.heading(title)
        return [known[document.title] for document in documents]

    def _cut(self, text: str, heading: str) -> list[Span]:
        """The passages of a text that does not fit as a whole."""

        def size(piece: str) -> int:
            fits = (
                len(piece) <= self._max_characters
                and self._tokens([self._embedded(heading, piece)])[0] <= self._max_tokens
            )
            return _FITS if fits else _TOO_LONG

        splitter = TextSplitter.from_callback(size, _FITS + 1)
        return [Span(start, start + len(piece)) for start, piece in splitter.chunk_indices(text)]

    def _embedded(self, heading: str, text: str) -> str:
        return f"{self._prompt}{heading}\n{text}" if heading else self._prompt + text

    def _at_most(self, text: str, tokens: int) -> bool:
        """Whether a text surely has no more tokens than this, told without tokenising it."""
        return (
            self._bytes_bound_tokens
            and len(text) <= tokens  # the cheap test first; most texts of a bulk load pass it
            and self._bound(text) <= tokens
        )

    def _bound(self, text: str) -> int:
        """No tokenizer takes more tokens: each has a byte of the normalised text, or is added."""
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        return len(text.encode()) + self._added + 1  # and one for a word boundary put in front

    def _tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with special tokens; a batch call is one that releases the GIL."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts))]


def _stripped(text: str) -> Span:
    """All of a text but the white space around it; an empty span if it is nothing else."""
    start = len(text) - len(text.lstrip())
    return Span(start, max(start, len(text.rstrip())))

"""What a document passes on its way in: its language is told, and its text is cut.

Synchronous and pure: the same documents give the same passages, whoever asks.
"""

from collections.abc import Sequence

from service.catalog import StoredDocument
from service.chunker import Chunker
from service.errors import InvalidInput
from service.language import LanguageIdentifier, canonical
from service.types import Document


class Intake:
    """Makes documents ready for the catalog."""

    def __init__(self, *, identifier: LanguageIdentifier, chunker: Chunker) -> None:
        self._identifier = identifier
        self._chunker = chunker

    def prepare(self, documents: Sequence[Document]) -> list[StoredDocument]:
        """The documents with language and spans, in their order.

        Raises:
            InvalidInput: a language code is none; the pointer names the document.
        """
        languages = self._languages(documents)
        spans = self._chunker.split_many(documents)
        return [
            StoredDocument(document=document, language=language, spans=cut)
            for document, language, cut in zip(documents, languages, spans, strict=True)
        ]

    def _languages(self, documents: Sequence[Document]) -> list[str]:
        told = [_told(document, number) for number, document in enumerate(documents)]
        unknown = [number for number, code in enumerate(told) if code is None]
        found = self._identifier.identify([documents[number].text for number in unknown])
        for number, (code, _confidence) in zip(unknown, found, strict=True):
            told[number] = code
        return [code for code in told if code is not None]


def _told(document: Document, number: int) -> str | None:
    if document.language is None:
        return None
    try:
        return canonical(document.language)
    except InvalidInput as error:
        raise InvalidInput(error.detail, pointer=f"/documents/{number}/language") from error

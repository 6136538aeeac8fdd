"""Translation memory exchange (TMX 1.4): units of translations in any number of languages.

*Why expat itself:* it streams, tells the line, and lets entity declarations be refused, which is
how a small file grows to gigabytes; `xml.etree` hides these handlers, and one more package for
them would bring nothing else. A bare document type, which most of these files have, is harmless:
nothing outside of the file is ever fetched.
"""

from collections.abc import Callable, Iterator
from xml.parsers import expat

from training.config.data import Tmx
from training.groups import Group
from training.readers.files import File, opened
from training.readers.ledger import DataInvalid, Ledger

CHUNK_BYTES = 1 << 16
CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})
"""Elements inside a segment that hold markup of the original format, not text."""


def read(file: File, settings: Tmx, ledger: Ledger) -> Iterator[Group]:
    """A group a translation unit; of `en-US` only `en` is kept.

    Raises:
        DataInvalid: the file is no XML, or declares entities.
    """
    units = _Units(file, settings, ledger)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = units.start
    parser.EndElementHandler = units.end
    parser.CharacterDataHandler = units.characters
    parser.EntityDeclHandler = units.entity
    units.line = lambda: parser.CurrentLineNumber
    with opened(file) as raw:
        try:
            while chunk := raw.read(CHUNK_BYTES):
                parser.Parse(chunk, False)
                yield from units.taken()
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise DataInvalid(f"{file.path}:{error.lineno}: no valid XML: {error}") from error
        yield from units.taken()


class _Units:
    def __init__(self, file: File, settings: Tmx, ledger: Ledger) -> None:
        self._file, self._settings, self._ledger = file, settings, ledger
        self._done: list[Group] = []
        self._texts: dict[str, str] = {}
        self._language = ""
        self._text: list[str] | None = None
        self._codes = 0
        self._began = 0
        self.line: Callable[[], int] = int
        """Tells the line that is being parsed."""

    def taken(self) -> list[Group]:
        done, self._done = self._done, []
        return done

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._texts, self._began = {}, self.line()
        elif name == "tuv":
            language = attributes.get("xml:lang") or attributes.get("lang", "")
            self._language = language.replace("_", "-").partition("-")[0].lower()
        elif name == "seg":
            self._text = []
        elif name in CODES:
            self._codes += 1

    def end(self, name: str) -> None:
        if name in CODES:
            self._codes -= 1
        elif name == "seg" and self._text is not None:
            text = " ".join("".join(self._text).split())
            if text and self._language:
                self._texts.setdefault(self._language, text)
            self._text = None
        elif name == "tu":
            self._finish()

    def characters(self, data: str) -> None:
        if self._text is not None and not self._codes:
            self._text.append(data)

    def entity(self, name: str, *_: object) -> None:
        raise DataInvalid(
            f"{self._file.path}:{self.line()}: declares the entity {name!r}; entities are refused"
        )

    def _finish(self) -> None:
        self._ledger.read += 1
        place = f"{self._file.name}:{self._began}"
        if len(self._texts) < 2:  # noqa: PLR2004
            self._ledger.bad(place, "fewer than two languages")
            return
        source = self._settings.source or self._file.stem
        self._done.append(Group(place, {"sentence": self._texts}, source))

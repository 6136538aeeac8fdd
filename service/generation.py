"""One generation, open in this process: an encoder, the indexes that it filled, and who uses them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.applier import Applier
from service.engine import Engine
from service.golden import GoldenQuery
from service.intake import Intake
from service.language import LanguageIdentifier


@dataclass(eq=False)
class Generation:
    """What a request is answered from. It is pinned by each of them, and closed when none is left."""

    id: int
    epoch: int
    engine: Engine
    applier: Applier
    intake: Intake
    identifier: LanguageIdentifier
    languages: frozenset[str]
    """What the encoder was trained on; in metrics, every other language counts as `other`."""
    compose: Callable[[str, str], str]
    """What is embedded of a passage, from its document's title and its text."""
    golden: Callable[[], Sequence[GoldenQuery]]
    """Reads the golden queries that the bundle brings along."""
    compatible_with: frozenset[str] = frozenset()
    """Spaces whose passages this encoder's queries find, as its bundle declares."""
    asker: "Generation | None" = None
    """Whose encoder embeds the queries for these indexes, if it is not this one's own."""
    _pins: int = 0
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._free.set()

    @property
    def bundle(self) -> str:
        """Name and version of the encoder."""
        return f"{self.engine.name}/{self.engine.version}"

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the generation open for as long as a request needs it."""
        self._pins += 1
        self._free.clear()
        try:
            yield
        finally:
            self._pins -= 1
            if not self._pins:
                self._free.set()

    async def unpinned(self) -> None:
        """Return when no request uses the generation."""
        await self._free.wait()

"""A data set built by hand, whose texts embed to directions that a test chooses."""

from collections.abc import Mapping, Sequence

import numpy as np

from service.types import Matrix, Role
from training.config.batches import TextRole
from training.corpus import NOTHING, Corpus, GroupTable
from training.groups import normalised

LANGUAGES = ("en", "de", "fr")
Texts = Mapping[str, Mapping[str, str]]


def a_corpus(groups: Sequence[Texts]) -> Corpus:
    """Groups g0, g1, ... of the set `set`."""
    numbers: dict[tuple[str, str], int] = {}
    keys: dict[str, int] = {}
    tables: dict[TextRole, np.ndarray] = {}
    for group, roles in enumerate(groups):
        for role, texts in roles.items():
            table = tables.setdefault(
                role, np.full((len(groups), len(LANGUAGES)), NOTHING, dtype=np.int32)
            )
            for language, text in texts.items():
                number = numbers.setdefault((language, text), len(numbers))
                table[group, LANGUAGES.index(language)] = number
    texts = [text for _, text in numbers]
    return Corpus(
        texts=texts,
        text_language=np.array([LANGUAGES.index(language) for language, _ in numbers]),
        keys=np.array([keys.setdefault(normalised(text), len(keys)) for text in texts]),
        languages=LANGUAGES,
        sets={
            "set": GroupTable(
                name="set",
                ids=[f"g{number}" for number in range(len(groups))],
                texts=tables,
                negatives=np.full((len(groups), 0), NOTHING, dtype=np.int32),
                targets={},
                sources=[f"s{number % 2}" for number in range(len(groups))],
            )
        },
        targets=[],
        held_out=[],
        facts={},
    )


class Directions:
    """Embeds `... @ANGLE` in the plane, so that a cosine is that of the angles' difference."""

    def __init__(self) -> None:
        self.roles: list[Role] = []
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str], role: Role) -> Matrix:
        self.roles.append(role)
        self.asked += texts
        angles = np.radians([float(text.rpartition("@")[2]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def questions(angles: Sequence[float], *, asked: float = 0.0) -> list[Texts]:
    """Group i: the query `q i` at `asked`, its passage `p i` at an angle."""
    return [
        {"query": {"en": f"q {i} @{asked}"}, "passage": {"en": f"p {i} @{angle}"}}
        for i, angle in enumerate(angles)
    ]

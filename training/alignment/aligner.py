"""The seam of the word aligners, and which one a recipe names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from training.alignment.command import CommandAligner
from training.alignment.ibm1 import Ibm1Aligner
from training.alignment.lexicon import LexiconAligner, read_lexicon
from training.alignment.lookup import Entry, Lookup, entries_of
from training.alignment.states import StatesAligner
from training.config import aligners as settings_of
from training.groups import Links
from training.model import SentenceEncoder
from training.vocabulary import Pieces


class Aligner(Protocol):
    """Says which words of two translations mean the same."""

    def align(self, pairs: Sequence[tuple[list[str], list[str]]]) -> list[Links]:
        """Links of each pair of source and target words, sorted, numbers from 0.

        The words hold all characters of their text but white space (`training.alignment.words`).
        """


def files_of(
    settings: settings_of.Aligner, *, source: str, target: str, data_folder: Path
) -> list[Path]:
    """The files of the data folder that an aligner for two languages reads."""
    match settings:
        case settings_of.Pharaoh():
            paths = [settings.text, settings.path]
        case settings_of.Lexicon():
            paths = [settings.path]
        case _:
            paths = []
    return [
        data_folder / path.replace("{source}", source).replace("{target}", target) for path in paths
    ]


def open_aligner(
    settings: settings_of.Aligner,
    *,
    source: str,
    target: str,
    given: Sequence[Entry],
    encoder: SentenceEncoder,
    pieces: Pieces,
    data_folder: Path,
) -> Aligner:
    """The aligner for two languages; `given` are the links that the groups bring along.

    Raises:
        LinksInvalid: the files that it reads are not there or not right.
    """
    files = files_of(settings, source=source, target=target, data_folder=data_folder)
    match settings:
        case settings_of.Given():
            return Lookup(given)
        case settings_of.Ibm1():
            return Ibm1Aligner(settings)
        case settings_of.Pharaoh():
            return Lookup(entries_of(*files))
        case settings_of.States():
            return StatesAligner(settings, encoder, pieces)
        case settings_of.Command():
            return CommandAligner(settings)
        case settings_of.Lexicon():
            return LexiconAligner(read_lexicon(*files), source=source, target=target)

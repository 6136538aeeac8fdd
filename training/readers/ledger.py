"""The account of what is read: malformed rows are counted and shown, sources left out on demand."""

from collections import Counter
from collections.abc import Iterable, Iterator

from training.config.data import Data
from training.groups import Group

SHOWN = 5


class DataInvalid(ValueError):
    """The data folder cannot be used; the message names files, lines and the recipe's key."""


class Ledger:
    """Counts rows by the rules of a recipe."""

    def __init__(self, options: Data) -> None:
        self._options = options
        self.read, self.malformed = 0, 0
        self.complaints: list[str] = []
        """The first few malformed rows, as `file:line: why`."""
        self.left_out: Counter[str] = Counter()
        """Well-formed rows and texts that the recipe's filters took out, by filter."""

    def bad(self, place: str, why: str) -> None:
        """Count a malformed row; `place` is `file:line`."""
        self.malformed += 1
        if len(self.complaints) < SHOWN:
            self.complaints.append(f"{place}: {why}")

    def wants(self, language: str) -> bool:
        """Whether the recipe keeps texts of this language."""
        return (
            language == "en" or not (self._options.languages) or language in self._options.languages
        )

    def kept(self, groups: Iterable[Group], *, at_most: int | None) -> Iterator[Group]:
        """The first groups that are not of an excluded source."""
        taken = 0
        for group in groups:
            if self._excluded(group.source):
                self.left_out["data.exclude_sources"] += 1
                continue
            yield group
            taken += 1
            if taken == at_most:
                return

    def check(self) -> None:
        """Raise `DataInvalid` if too large a share of the rows was malformed."""
        share = self._options.max_bad_share
        if self.malformed > share * max(self.read, 1):
            raise DataInvalid(
                f"{self.malformed} of {self.read} rows are malformed, more than the share of"
                f" {share} that the recipe allows (data.max_bad_share):"
                f" {'; '.join(self.complaints)}"
            )

    def _excluded(self, source: str) -> bool:
        # `lafand-ict` is made of `lafand`.
        return any(
            source == name or source.startswith(f"{name}-")
            for name in self._options.exclude_sources
        )

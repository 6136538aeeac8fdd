"""What mining found: the negatives, and what a person must see to trust them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Negative(NamedTuple):
    """A group whose passage is a hard negative."""

    group: int
    rank: int
    """Among the passages that are no positives; 1 is the top."""
    cosine: float


@dataclass(frozen=True, slots=True)
class Example:
    """One query with what was found for it, to be looked at."""

    query: str
    positive: str
    cosine: float
    negatives: Sequence[tuple[int, float, str]]
    """Rank, cosine and passage."""

    def as_json(self) -> dict[str, object]:
        return {
            "query": self.query,
            "positive": self.positive,
            "cosine": round(self.cosine, 4),
            "negatives": [
                {"rank": rank, "cosine": round(cosine, 4), "passage": text}
                for rank, cosine, text in self.negatives
            ],
        }


@dataclass(slots=True)
class Mined:
    """The negatives of every group, and what was seen on the way."""

    passages: int
    """Distinct ones that were searched."""
    negatives: dict[int, list[int]] = field(default_factory=dict)
    """Group to groups, hardest first; both are numbers in the table."""
    fewer: int = 0
    """Queries that got fewer than asked for (in one of their languages)."""
    none: int = 0
    first_ranks: int = 0
    """Queries whose positive no other passage beats."""
    examples: list[Example] = field(default_factory=list)
    _positives: float = 0.0
    _negatives: float = 0.0

    def add(
        self,
        group: int,
        found: Sequence[Negative],
        *,
        positive: float,
        at_first_rank: bool,
        enough: bool,
    ) -> None:
        """Take note of one query; `positive` is the cosine of its own passage."""
        self.negatives[group] = [negative.group for negative in found]
        self.fewer += not enough
        self.none += not found
        self.first_ranks += at_first_rank
        self._positives += positive
        self._negatives += sum(negative.cosine for negative in found)

    def as_json(self) -> dict[str, object]:
        """The report, without the negatives themselves."""
        queries, total = len(self.negatives), sum(map(len, self.negatives.values()))
        return {
            "queries": queries,
            "passages": self.passages,
            "negatives": total,
            "fewer_than_asked": self.fewer,
            "without_any": self.none,
            "positive_at_rank_1": round(self.first_ranks / max(queries, 1), 4),
            "mean_cosine_of_positives": round(self._positives / max(queries, 1), 4),
            "mean_cosine_of_negatives": round(self._negatives / max(total, 1), 4),
            "examples": [example.as_json() for example in self.examples],
        }

"""What is mined for: how many, which ranks and scores, which texts."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from training.config.batches import ENGLISH, TextRole

IndexKind: TypeAlias = Literal["auto", "exact", "ivf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """What is looked for, and where."""

    count: int = 8
    """Negatives a query; with `languages`, for each of its languages."""
    first: int = 10
    """Best rank that a negative may have, among the passages that are no positives; 1 is the top."""
    last: int = 100
    """Worst rank."""
    margin: float = 0.0
    """A negative's cosine is at least so far below the positive's."""
    share: float = 0.95
    """And at most this share of the positive's."""
    languages: tuple[str, ...] = ()
    """For CLEAR: a negative must be the passage of a group whose own query is there in the
    language, so that slot k of the hard passages and slot k of the hard queries belong together."""
    roles: tuple[TextRole, TextRole] = ("query", "passage")
    query_language: str = ENGLISH
    passage_language: str = ENGLISH
    index: IndexKind = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"--ranks {self.first}-{self.last}: the first rank is at least 1, the last not before it"
            )
        if self.count < 1:
            raise ValueError(f"count = {self.count}: at least one negative must be asked for")
        if self.margin < 0 or not 0 < self.share <= 1:
            raise ValueError(
                f"margin = {self.margin} must not be negative, and share = {self.share} be above 0"
                " and at most 1: a negative would score above its positive"
            )
        same_language = self.query_language == self.passage_language
        if self.roles[0] == self.roles[1] and same_language:
            raise ValueError(
                f"--roles {self.roles[0]},{self.roles[1]} within {self.query_language!r}: every text"
                " would find itself; let --query-language and --passage-language differ"
            )

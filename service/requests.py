"""What the front asks of the retriever; the answers are in `service.types`.

Why not there: a search carries a filter, and the filter algebra is written over the types.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.filters import Filter
from service.types import GroupBy


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One or more queries with the same conditions; each is answered as if it came alone.

    `limit` counts hits, or groups of at most `group_size` hits if `group_by` is given;
    `languages` of None means any.
    """

    queries: Sequence[str]
    collection: str
    limit: int = 10
    offset: int = 0
    languages: Sequence[str] | None = None
    where: Filter | None = None
    group_by: GroupBy | None = None
    group_size: int = 1
    score_threshold: float | None = None
    include_text: bool = True
    include_metadata: bool = True
    include_vector: bool = False

"""Whether an index holds exactly what the catalog says, while both go on being written to.

Counts cannot tell a stale vector from a fresh one, so the comparison is of (id, revision) pairs.
It needs no lock: a passage leaves the set "revision <= applied" when it is edited, but none can
enter it, so only what an index has too much must be looked at twice.
"""

from collections.abc import Sequence

import anyio.to_thread

from service.catalog import Catalog
from service.vectors.backend import VectorIndex

SLACK = 10_000
"""Rows read beyond an index's page; that many missing ones are proof enough."""


async def difference(
    index: VectorIndex,
    catalog: Catalog,
    collection: int,
    *,
    applied_rev: int,
    failed: set[tuple[int, int]],
) -> str | None:
    """The first difference between an index at `applied_rev` and the catalog, in words; or None.

    The caller sees to it that nobody writes to the index meanwhile. `failed` are the pairs of
    (id, revision) that could not be embedded and are therefore rightly absent.
    """

    def compare(page: Sequence[tuple[int, int]], after: int, until: int | None) -> str | None:
        held = set(page)
        rows = catalog.passages.live(
            collection,
            through_rev=applied_rev,
            after=after,
            until=until,
            limit=len(page) + len(failed) + SLACK,
        )
        expected = set(rows)
        missing = expected - held - failed
        if missing:
            return f"it lacks {len(missing)} passages, such as (id, rev) {min(missing)}"
        surplus = sorted(held - expected)
        present = catalog.passages.revisions([passage for passage, _ in surplus])
        for passage, rev in surplus:
            if present.get(passage, 0) <= applied_rev:
                now = present.get(passage)
                return f"it holds passage {passage} at revision {rev}, the catalog at {now}"
        return None

    last = 0
    async for page in index.scan():
        if page:
            until = page[-1][0]
            wrong = await anyio.to_thread.run_sync(compare, page, last, until)
            if wrong:
                return wrong
            last = until
    return await anyio.to_thread.run_sync(compare, [], last, None)

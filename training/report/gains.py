"""What a model gained over another one, language by language, with intervals."""

import numpy as np

from training.report.charts import Gain
from training.results import Cell, Results
from training.significance import holm, paired


def gains_by_language(ours: Results, theirs: Results, benchmark: str) -> list[Gain]:
    """The paired difference of the main metric by language of the query, over all candidates.

    Queries that belong together (those of one passage, in all candidate languages) are resampled
    together; p is corrected over the languages (Holm). Empty if the two share no cell with values.
    """
    others = {cell.name: cell for cell in theirs.cells}
    found: dict[str, list[tuple[Cell, Cell]]] = {}
    for cell in ours.cells:
        other = others.get(cell.name)
        if cell.benchmark == benchmark and cell.task != "pool" and other and _same(cell, other):
            found.setdefault(cell.queries, []).append((cell, other))
    rows = []
    for language, pairs in found.items():
        differences = np.concatenate([_values(one) - _values(other) for one, other in pairs])
        clusters = np.concatenate([_clusters(one) for one, _ in pairs])
        low, high, p = paired(differences, clusters, seed=0)
        rows.append(Gain(language, float(differences.mean()), low, high, p))
    corrected = holm([row.p for row in rows])
    return [
        Gain(row.language, row.mean, row.low, row.high, p)
        for row, p in zip(rows, corrected, strict=True)
    ]


def _same(one: Cell, other: Cell) -> bool:
    if one.values is None or other.values is None:
        return False
    return one.values.shape == other.values.shape and list(one.metrics)[0] in other.metrics  # noqa: RUF015 - the first


def _values(cell: Cell) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(cell.values, dtype=np.float64)


def _clusters(cell: Cell) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    own = np.arange(cell.count) if cell.clusters is None else cell.clusters
    return np.asarray(own, dtype=np.int64)

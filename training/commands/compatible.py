"""`isogloss-train compatible`: whether queries of a new bundle find passages that an old one embedded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.bundle import Bundle
from training.commands.terminal import Device, Threads, console


def compatible(
    new: Annotated[
        Path,
        typer.Argument(
            metavar="NEW", help="The bundle that embeds queries.", exists=True, file_okay=False
        ),
    ],
    old: Annotated[
        Path,
        typer.Argument(
            metavar="OLD", help="The bundle that embedded passages.", exists=True, file_okay=False
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="The data folder, whose benchmarks of retrieval are asked.",
            show_default="the golden queries of NEW, or else of OLD",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="Names or BEIR-like folders in DATA/eval, with languages where wanted:"
            " xquad,xquad_r:de+en.",
            show_default="all retrieval that lies there",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of NEW: fp32, fp16 or int8.", show_default="the first of them it has"),
    ] = None,
    old_precision: Annotated[
        str | None, typer.Option(help="Of OLD, as its passages lie there.", show_default="the same")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="So much nDCG@10, from 0 to 1, may a pair of languages lose.", min=0, max=1
        ),
    ] = 0.02,
    declare: Annotated[
        bool, typer.Option("--declare", help="Write the claim into NEW's manifest, if it holds.")
    ] = False,
    threads: Threads = 2,
    device: Device = "auto",
) -> None:
    """Ask NEW's queries of OLD's passages, in every pair of languages, beside either bundle alone.

    The exit code is 1 if a pair of languages loses more than --tolerance against OLD alone. The
    claim shapes no vector, so NEW's spaces stay what they are.
    """
    from training.export import compatibility as proof

    if benchmarks is not None and data is None:
        raise typer.BadParameter("only with --data", param_hint="--benchmarks")
    with (
        _side(new, precision, threads=threads, device=device) as asking,
        _side(old, old_precision or asking.precision, threads=threads, device=device) as asked,
        console.status("") as status,
    ):
        if data is None:
            sets = [proof.golden_set(asking.bundle, asked.bundle)]
        else:
            sets = proof.benchmark_sets(data, benchmarks)
        found = proof.measure(asking, asked, sets, progress=status.update)
    for table in _tables(found, tolerance):
        Console().print(table)
    measured = {one.passages for one in found}
    if left := [code for code in asked.bundle.manifest.languages if code not in measured]:
        console.print(f"not measured: {', '.join(left)}", highlight=False, soft_wrap=True)
    if lost := proof.losses(found, tolerance=tolerance):
        raise ValueError(
            f"queries of {asking.name} do not fit passages of {asked.name}: {'; '.join(lost)}; at"
            f" most {tolerance} may be lost (--tolerance)"
        )
    if declare:
        proof.declare(asking, asked, found, tolerance=tolerance)
        console.print(
            f"{new}: {asking.precision} is declared to be compatible with the space {asked.space}",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def _side(folder: Path, precision: str | None, *, threads: int, device: Any) -> Iterator[Any]:
    """A `training.export.compatibility.Side`, open."""
    from training.embedders import BundleEmbedder
    from training.export.compatibility import Side

    embedder = BundleEmbedder.open(folder, precision=precision, device=device, threads=threads)
    try:
        yield Side(Bundle.open(folder), embedder.precision, embedder)
    finally:
        embedder.close()


def _tables(found: Sequence[Any], tolerance: float) -> Iterator[Table]:
    """Rows of `training.export.compatibility.Measured`, by what they were measured on."""
    for benchmark, rows in groupby(found, key=lambda one: one.benchmark):
        table = Table(
            title=f"{benchmark}: nDCG@10 by who embedded queries/passages",
            caption=f"Red rows lose more than {tolerance} (--tolerance).",
            title_justify="left",
            caption_justify="left",
        )
        for column in ("queries", "passages"):
            table.add_column(column)
        for column in ("count", "old/old", "new/old", "loss", "new/new"):
            table.add_column(column, justify="right")
        for one in rows:
            numbers = (f"{value:.4f}" for value in (one.old, one.crossed, one.loss, one.new))
            style = "red" if one.loss > tolerance else None
            table.add_row(one.queries, one.passages, str(one.count), *numbers, style=style)
        yield table

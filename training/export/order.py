"""What a bundle is made of and what may be chosen of it, whether it comes from a run or elsewhere."""

import datetime as dt
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from service.bundle import Bundle
from service.golden import GoldenQuery
from service.manifest import Precision
from training.config.recipe import Variants
from training.corpus import HeldOut
from training.export.by_optimum import ENVIRONMENT
from training.export.gate import Row
from training.export.graph import ExportFailed
from training.pretrained import Pretrained

Exporter: TypeAlias = Literal["torch", "optimum"]


@dataclass(frozen=True, slots=True)
class Choices:
    """What can be chosen of every bundle."""

    precisions: Sequence[Precision] = ()
    """Of a run, the recipe's if none are named."""
    dimension: int | None = None
    """Cut the vectors to their first dimensions."""
    remove_languages: bool = False
    """Project out the directions in which the languages' mean vectors differ."""
    rank: int | None = None
    """How many of them at most; all if not given."""
    exporter: Exporter = "torch"
    optimum_python: Path = ENVIRONMENT

    def check(self, out: Path, order: "Order") -> None:
        """Refuse what contradicts itself, the model, or what lies in `out`.

        Raises:
            ExportFailed: names the option.
        """
        if out.exists() and not (out / "bundle.json").is_file():
            raise ExportFailed(f"{out} exists and is no bundle: take another --out")
        if not {"fp32", "int8"} & set(self.precisions):
            raise ExportFailed(
                "--precisions must name fp32 or int8, whose weights can be trained on"
            )
        if self.exporter == "optimum" and "fp32" not in self.precisions:
            raise ExportFailed("--exporter optimum must write fp32, which holds the weights")
        if self.exporter == "optimum" and "fp16" in self.precisions:
            raise ExportFailed("--exporter optimum writes fp32 and int8; fp16 needs torch's")
        width = order.model.encoder.width
        if self.dimension is not None and not 1 <= self.dimension <= width:
            raise ExportFailed(
                f"--dimension {self.dimension}: the vectors can be cut to 1 to {width} dimensions"
            )
        if self.rank is not None and not self.remove_languages:
            raise ExportFailed("--rank bounds what --remove-languages removes, which is not asked")
        if not order.model.by_cosine:
            raise ExportFailed(
                f"{order.model.name} compares vectors that are not normalised by their dot product;"
                " a bundle normalises them, and would rank otherwise"
            )
        if not order.pairs:
            raise ExportFailed("there is no text to check the bundle on: give some with --probes")


@dataclass(frozen=True, slots=True)
class Order:
    """A model, and what its bundle says of itself."""

    model: Pretrained
    name: str
    version: str
    languages: Sequence[str]
    pairs: Sequence[HeldOut]
    """Texts to check it on, in every language, with their translations where there are any."""
    provenance: Mapping[str, Any]
    """`service.manifest.Provenance` without the versions of the tools."""
    limits: Variants = field(default_factory=Variants)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    widths: Sequence[int] = ()
    """Widths that the vectors were trained to be cut to."""
    centroid_pairs: Sequence[HeldOut] = ()
    """Texts that the languages' mean vectors are taken of; `pairs` if there are none."""
    golden: Sequence[GoldenQuery] = ()
    """Queries that a service is to ask of the bundle before it goes live."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A finished bundle with the tables of its gates; a variant that failed is not in it."""

    bundle: Bundle
    parity: float
    gates: Mapping[Precision, Sequence[Row]]

    @property
    def failed(self) -> dict[Precision, list[str]]:
        """By variant that is not shipped, the languages in which it failed."""
        return failures(self.gates)


def failures(gates: Mapping[Precision, Sequence[Row]]) -> dict[Precision, list[str]]:
    """The languages that did not pass, by variant that has any."""
    lost = {
        precision: [str(row["language"]) for row in table if not row["passed"]]
        for precision, table in gates.items()
    }
    return {precision: languages for precision, languages in lost.items() if languages}


def made_now() -> dict[str, Any]:
    """The commit of this code, where it is known, and the time."""
    git = shutil.which("git")
    commit = ""
    if git is not None:
        found = subprocess.run(  # noqa: S603 - a fixed command, no input of others
            [git, "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = found.stdout.strip()
    created = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return {"commit": commit or "unknown", "created": created}

"""What the catalog says of generations, as values: states, route, cursors, failures and events."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal[
    "registered",
    "building",
    "indexing",
    "catching_up",
    "verifying",
    "ready",
    "active",
    "soaking",
    "retiring",
    "retired",
    "failed",
    "aborted",
]
UNDER_WAY: tuple[State, ...] = (
    "registered",
    "building",
    "indexing",
    "catching_up",
    "verifying",
    "ready",
)
"""States of a generation that is to go live; there is one of them at a time."""
FIRST: tuple[State, ...] = ("registered",)
LIVE_NEXT: tuple[State, ...] = ("ready", "soaking")
SOAKING: tuple[State, ...] = ("soaking",)
FINISHED: tuple[State, ...] = ("retired", "failed", "aborted")
"""States in which a generation is no longer applied, and holds back no tombstone."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The catalog as one encoder sees it: the indexes `g{indexes}-c{collection}` hold its vectors.

    `indexes` is its own number, or that of the generation of the same space whose vectors it takes.
    """

    id: int
    bundle: str
    version: str
    space: str
    dimension: int
    state: State
    created: str
    precision: str
    indexes: int
    changed: str
    paused: bool
    error: str
    options: Mapping[str, Any]

    @property
    def model(self) -> str:
        """Name and version of the encoder."""
        return f"{self.bundle}/{self.version}"


@dataclass(frozen=True, slots=True)
class Route:
    """Which generation answers, and which one answered before; `epoch` grows with every change.

    `previous` is kept in step, and can be gone back to, until `soak_until` (seconds since 1970).
    `asking` is under way, and its encoder embeds the queries already, for the indexes of `active`.
    """

    epoch: int
    active: int | None
    previous: int | None
    soak_until: float | None
    asking: int | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far an index has come, and whether it was found equal to the catalog since it was made."""

    applied_rev: int
    verified: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A passage, in the state of revision `rev`, that a generation's encoder cannot embed."""

    collection: int
    passage: int
    rev: int
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit."""

    id: int
    at: str
    kind: str
    generation: int | None
    detail: Mapping[str, Any]

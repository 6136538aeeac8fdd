"""A migration in a sentence: where it stands, and what the operator may do now."""

from datetime import UTC, datetime
from math import ceil

from service.client import Migration
from service.commands.terminal import counted, duration

UNDER_WAY = ("registered", "building", "indexing", "catching_up", "verifying", "ready")


def name_of(migration: Migration) -> str:
    """The bundle that it brings."""
    return f"{migration['bundle']}/{migration['version']}"


def state_of(migration: Migration) -> str:
    """Its state as it is read: `catching up`, `building (paused)`, `live`."""
    if migration["live"]:
        return "live"
    state = str(migration["state"]).replace("_", " ")
    return f"{state} (paused)" if migration["paused"] else state


def progress_of(migration: Migration) -> str:
    """How far it has come, how fast, and how long it will take."""
    parts = [f"{migration['applied']:,} of {counted(migration['total'], 'passage')}"]
    if migration["passages_per_s"]:
        parts.append(f"{migration['passages_per_s']:,.0f} a second")
    if migration["remaining_s"]:
        parts.append(f"{duration(migration['remaining_s'])} left")
    return ", ".join(parts)


def soak_left_s(migration: Migration) -> int | None:
    """Seconds in which it can still be taken back at once; None if it cannot."""
    if migration["soak_until"] is None:
        return None
    until = datetime.fromisoformat(migration["soak_until"])
    return max(0, ceil((until - datetime.now(UTC)).total_seconds()))


def said(migration: Migration) -> str:
    """Where it stands."""
    name, state = name_of(migration), migration["state"]
    if migration["live"]:
        return _live(migration)
    if state == "failed":
        return f"failed: {name}: {migration['error'] or 'no reason was given'}"
    if state == "aborted":
        return f"aborted: {name}; what was live stays live"
    if migration["paused"]:
        return f"paused: {name} at {progress_of(migration)}; `isogloss migrate resume` goes on"
    if state == "ready" and migration["options"]["hold"]:
        return (
            f"ready: {name}; `isogloss migrate cut-over` makes it live,"
            " `isogloss migrate abort` drops it"
        )
    if state in UNDER_WAY:
        ahead = "; its queries are asked already" if migration["asking"] else ""
        return f"{state_of(migration)}: {name}, {progress_of(migration)}{ahead}"
    return f"{state_of(migration)}: {name}"


def lives(migration: Migration) -> bool:
    """Whether searches are answered from it."""
    return bool(migration["live"])


def held(migration: Migration) -> bool:
    """Whether it is ready, and waits for somebody to say so."""
    return bool(migration["state"] == "ready" and migration["options"]["hold"])


def passed_by(migration: Migration) -> bool:
    """Whether it is under way no longer, whatever came of it."""
    return migration["state"] not in UNDER_WAY


def _live(migration: Migration) -> str:
    sentence = f"live: {name_of(migration)}, epoch {migration['epoch']}"
    left = soak_left_s(migration)
    if left is None:
        return sentence
    return f"{sentence}; `isogloss migrate rollback` within {duration(left)} takes it back"

"""Migrations as tables: all of them, or one with its collections, its gate and its pods."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from service.client import FINISHED, Migration
from service.commands.following import result
from service.commands.sentences import name_of, progress_of, said, soak_left_s, state_of
from service.commands.terminal import console, counted, duration, moment, say, table

MAX_COLUMNS = 6


def show_all(migrations: Sequence[Migration]) -> None:
    """A line for each migration."""
    if not migrations:
        say("there was no migration yet; `isogloss migrate start NAME/VERSION` begins one")
        return
    rows = table("id", "bundle", "precision", "state", "passages", "since", "", right=("id",))
    for each in migrations:
        rows.add_row(
            str(each["generation"]),
            name_of(each),
            each["precision"],
            f"[bold]{state_of(each)}[/]" if each["live"] else state_of(each),
            "" if each["state"] in FINISHED else f"{each['applied']:,} of {each['total']:,}",
            moment(each["changed"]),
            escape(_note(each)),
        )
    console.print(rows)


def show_one(migration: Migration) -> None:
    """All that is known of one migration."""
    console.print(f"[bold]migration {migration['generation']}:[/] ", end="")
    say(said(migration))
    facts = table("", "")
    facts.show_header = False
    for label, text in _facts(migration):
        facts.add_row(f"[bold]{label}[/]", escape(text))
    console.print(facts)
    _show("collections", _collections(migration))
    _show("pods", _pods(migration))
    if migration["compatible"]:
        _show_compatible(migration["compatible"])
    if migration["report"]:
        _show_gate(migration["report"])
    if migration["shadow"]:
        for measures in measured("recent queries", migration["shadow"]):
            _show("", measures)


def measured(name: str, measures: Mapping[str, Any]) -> Iterator[Table]:
    """The numbers of a check as tables: those that stand alone, those by language, and so downwards."""
    alone = {key: value for key, value in measures.items() if not isinstance(value, Mapping)}
    flat = {key: value for key, value in measures.items() if _flat(value)}
    if alone:
        rows = table(escape(name), "", right=("",))
        for key, value in alone.items():
            rows.add_row(escape(key), _number(value))
        yield rows
    if flat:
        yield _matrix(name, flat)
    for key, value in measures.items():
        if key in alone or key in flat:
            continue
        if _alike(value):
            yield _matrix(f"{name}, {key}", {row: _flattened(each) for row, each in value.items()})
        else:
            yield from measured(f"{name}, {key}", value)


def _facts(migration: Migration) -> Iterator[tuple[str, str]]:
    options = migration["options"]
    yield "bundle", f"{name_of(migration)}, {migration['precision']}"
    yield "space", migration["space"]
    yield "begun", moment(migration["created"])
    yield "so since", moment(migration["changed"])
    if migration["state"] not in FINISHED:
        yield "passages", progress_of(migration)
    yield "route", f"epoch {migration['epoch']}"
    if options["hold"]:
        yield "hold", "waits for `isogloss migrate cut-over`"
    if migration["asking"]:
        yield "queries", "are embedded by it already, and find the passages of the live one"
    if options["passages_per_s"] is not None:
        yield "rate", f"at most {options['passages_per_s']:g} passages a second"
    if options["soak_s"] is not None:
        yield "soak", duration(options["soak_s"])
    if options["override"]:
        yield "override", f"{', '.join(options['override'])}: {options['reason']}"
    if migration["error"]:
        yield "error", migration["error"]


def _collections(migration: Migration) -> Table:
    rows = table("name", "state", "passages", "", right=("passages",))
    for each in migration["collections"]:
        passages = f"{each['applied']:,} of {each['total']:,}"
        rows.add_row(escape(each["name"]), each["state"], passages, escape(each["error"]))
    return rows


def _pods(migration: Migration) -> Table:
    rows = table("id", "epoch", "seen", "encoder")
    for each in migration["pods"]:
        encoder = "open" if each["loaded"] else each["refused"] or "not open"
        seen = f"{duration(each['seen_s_ago'])} ago"
        rows.add_row(escape(each["id"]), str(each["epoch"]), seen, escape(encoder))
    return rows


def _show_compatible(check: Mapping[str, Any]) -> None:
    rows = table("do its queries find the live passages?", "")
    rows.add_row("yes" if check["ok"] else "no", escape(check["detail"]))
    _show("compatible", rows)
    for measures in measured(check["name"], check["measures"]):
        _show("", measures)


def _show_gate(report: Mapping[str, Any]) -> None:
    checks = counted(len(report["checks"]), "check")
    verdict = "passed" if report["passed"] else "not passed"
    rows = table("check", "result", "")
    for check in report["checks"]:
        overridden = check["name"] in report["overridden"]
        rows.add_row(
            escape(check["name"]),
            result(ok=check["ok"], overridden=overridden),
            escape(check["detail"]),
        )
    when = f"{moment(report['at'])}, in {duration(report['seconds'])}"
    _show(f"gate: {verdict}, {checks}, {when}", rows)
    if report["overridden"]:
        say(f"overridden because: {report['reason']}")
    for check in report["checks"]:
        for measures in measured(check["name"], check["measures"]):
            _show("", measures)


def _show(title: str, rows: Table) -> None:
    if not rows.row_count:
        return
    console.print()
    if title:
        console.print(f"[bold]{escape(title)}[/]")
    console.print(rows)


def _flat(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(
        isinstance(each, Mapping) for each in value.values()
    )


def _alike(value: Mapping[str, Any]) -> bool:
    """Whether it has several rows of the same names, whose numbers lie two levels deep at most."""
    names = {tuple(each) for each in value.values() if isinstance(each, Mapping)}
    return len(value) > 1 and len(names) == 1 and all(map(_two_levels, value.values()))


def _two_levels(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _flat(each) for each in value.values() if isinstance(each, Mapping)
    )


def _flattened(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers of a row under one name each, those of the inner level after the outer one's."""
    return {
        f"{key} {inner}" if inner else key: number
        for key, value in row.items()
        if value is not None
        for inner, number in (value.items() if isinstance(value, Mapping) else [("", value)])
    }


def _matrix(name: str, flat: Mapping[str, Mapping[str, Any]]) -> Table:
    """Two levels of numbers, the outer one downwards, unless the inner one is too long for a line."""
    outer = list(flat)
    inner = list(dict.fromkeys(key for each in flat.values() for key in each))
    cells = {(down, right): value for down, each in flat.items() for right, value in each.items()}
    if len(inner) > max(len(outer), MAX_COLUMNS):
        outer, inner = inner, outer
        cells = {(right, down): value for (down, right), value in cells.items()}
    headings = [escape(key) for key in inner]
    rows = table(escape(name), *headings, right=tuple(headings))
    for key in outer:
        rows.add_row(escape(key), *(_number(cells.get((key, column))) for column in inner))
    return rows


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int):
        return escape(str(value))
    return escape(json.dumps(value, ensure_ascii=False))


def _note(migration: Migration) -> str:
    left = soak_left_s(migration)
    if migration["live"] and left is not None:
        return f"epoch {migration['epoch']}, can be taken back for {duration(left)}"
    return f"epoch {migration['epoch']}" if migration["live"] else str(migration["error"])

"""From a recipe and a folder to a corpus: read, filter, merge, hold out, check for leaks, derive."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training import benchmarks
from training.config.data import Cloze, Data, Hub, Joined
from training.config.evaluation import Benchmark
from training.config.recipe import Recipe
from training.corpus import Corpus, GroupTable
from training.data.derived import derive
from training.data.drafts import DraftSet, Texts
from training.data.filters import drop_odd_lengths, find_leaks, hold_out, never_seen
from training.data.tables import Renumbered, Targets, renumber, table
from training.leaks import Evaluated, Leaks
from training.readers import DataInvalid, Ledger, read_set


def read_corpus(folder: Path, recipe: Recipe) -> Corpus:
    """Read the data sets of a recipe.

    `facts` has `sources` (by name: licence, rows, sha256), `rows` (read, malformed, complaints),
    `left_out` (by filter), `sets` (groups and texts by role and language) and `leaks`.

    Raises:
        DataInvalid: a file is missing or cannot be read, a set or a language is empty, too many
            rows are malformed, or evaluated texts were found and are to be refused.
    """
    options, ledger, texts = recipe.data, Ledger(recipe.data), Texts()
    sets = _read(folder, options, ledger, texts)
    read = list(sets.values())
    if options.max_length_ratio is not None:
        drop_odd_lengths(read, texts, max_ratio=options.max_length_ratio, left_out=ledger.left_out)
    aside = hold_out(read, texts, share=options.held_out_share)
    leaks = _leaks(folder, recipe, read, texts)
    _check(read, texts, options, ledger)
    for name, settings in options.sets.items():
        if isinstance(settings, Joined | Cloze):
            sets[name] = DraftSet(name, texts, options, ledger.left_out)
            derive(sets[name], settings, of=sets[settings.of], texts=texts, seed=recipe.seed)
    ordered = [sets[name] for name in options.sets]
    numbers, targets = renumber(ordered, texts), Targets()
    tables = {
        one.name: table(one, texts, ledger, numbers=numbers, targets=targets) for one in ordered
    }
    ledger.check()
    keys = np.frombuffer(texts.keys, dtype=np.int64)[numbers.texts]
    return Corpus(
        texts=[texts.texts[number] for number in numbers.texts],
        text_language=numbers.languages[
            np.frombuffer(texts.language, dtype=np.int32)[numbers.texts]
        ].astype(np.int64),
        keys=np.unique(keys, return_inverse=True)[1].astype(np.int64),
        languages=numbers.names,
        sets=tables,
        targets=_new_numbers(targets, numbers),
        held_out=never_seen(aside, texts, frozenset(keys.tolist())),
        facts={
            "sources": _sources(read, texts, options),
            "rows": {
                "read": ledger.read,
                "malformed": ledger.malformed,
                "complaints": ledger.complaints,
            },
            "left_out": dict(ledger.left_out),
            "sets": {name: _size(one, numbers.names) for name, one in tables.items()},
            "leaks": leaks.as_json(),
        },
    )


def _read(folder: Path, options: Data, ledger: Ledger, texts: Texts) -> dict[str, DraftSet]:
    sets = {}
    for language in options.languages:  # in the recipe's order
        texts.languages.setdefault(language, len(texts.languages))
    for name, settings in options.sets.items():
        if not isinstance(settings, Joined | Cloze):
            limit = settings.rows if isinstance(settings, Hub) else settings.rows_per_file
            whole = limit is None and not options.exclude_sources
            sets[name] = one = DraftSet(name, texts, options, ledger.left_out, whole=whole)
            for group in read_set(name, settings, folder, ledger):
                one.add(group)
    return sets


def _check(sets: Sequence[DraftSet], texts: Texts, options: Data, ledger: Ledger) -> None:
    ledger.check()
    for one in sets:
        if not any(draft.cells for draft in one.drafts):
            raise DataInvalid(
                f"data.sets.{one.name}: no group is left of {len(one.drafts)}; left out in all:"
                f" {dict(ledger.left_out) or 'nothing'}"
            )
    spoken = {texts.language[t] for one in sets for d in one.drafts for t in d.cells.values()}
    there = {name for name, number in texts.languages.items() if number in spoken}
    if missing := [language for language in options.languages if language not in there]:
        raise DataInvalid(f"there is no text in {', '.join(missing)} (data.languages)")


def _leaks(folder: Path, recipe: Recipe, sets: Sequence[DraftSet], texts: Texts) -> Leaks:
    evaluation = recipe.evaluation
    handling = recipe.data.leaks
    evaluated = Evaluated(
        {
            _named(benchmark): benchmarks.texts(benchmark, folder / evaluation.folder)
            for benchmark in evaluation.benchmarks
        }
    )
    leaks = Leaks(handling, checked=evaluated.checked)
    if evaluation.benchmarks:
        find_leaks(sets, texts, evaluated, leaks, drop=handling == "drop")
    if len(leaks) and handling == "refuse":
        raise DataInvalid(
            f"{len(leaks)} training texts are evaluated ({leaks}), and data.leaks is 'refuse';"
            f" for example {leaks.examples[0]}"
        )
    return leaks


def _named(benchmark: Benchmark) -> str:
    return f"{benchmark.name} {benchmark.path}" if benchmark.path else benchmark.name


def _sources(sets: Sequence[DraftSet], texts: Texts, options: Data) -> dict[str, object]:
    """What was used of each source, and a hash of just that."""
    names = list(texts.sources)
    rows = dict.fromkeys(names, 0)
    digests = {name: hashlib.sha256() for name in names}
    for one in sets:
        for number, source, text in one.rows:
            draft = one.drafts[number]
            if text in draft.cells.values():
                name = names[source]
                rows[name] += 1
                first = next(iter(draft.cells.values()))
                line = f"{texts.texts[first]}\t{texts.texts[text]}\n"
                digests[name].update(line.encode())
    return {
        name: {
            "licence": options.licences.get(name, "unstated"),
            "rows": rows[name],
            "sha256": digests[name].hexdigest(),
        }
        for name in sorted(names)
        if rows[name]
    }


def _new_numbers(targets: Targets, numbers: Renumbered) -> list[tuple[int, ...]]:
    old = targets.texts
    flat = np.array([text for texts in old for text in texts], dtype=np.int64)
    new = np.searchsorted(numbers.texts, flat).tolist()
    found, at = [], 0
    for texts in old:
        found.append(tuple(new[at : at + len(texts)]))
        at += len(texts)
    return found


def _size(one: GroupTable, languages: Sequence[str]) -> dict[str, object]:
    return {
        "groups": len(one),
        "texts": {
            role: {
                language: int(count)
                for language, count in zip(languages, (dense >= 0).sum(0), strict=True)
                if count
            }
            for role, dense in one.texts.items()
        },
    }

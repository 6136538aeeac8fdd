"""The files of a benchmark: plain or gzip, found by language, with errors that name file and knob."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from langcodes import Language, standardize_tag
from langcodes.tag_parser import LanguageTagError

ENGLISH = "en"


class BenchmarkMissing(ValueError):
    """A file of a benchmark is not there; the message names the file and the knob."""


class BenchmarkInvalid(ValueError):
    """A benchmark's files contradict each other; the message names the file and the record."""


def iso(code: str) -> str:
    """The shortest tag of a language: `deu` is de, `arb` ar, `cmn` and `zho-CN` zh, `zho-TW` zh-TW.

    What a language is written in or spoken where by default is left out (Unicode's likely subtags).
    """
    try:
        tag = standardize_tag(code, macro=True)
        language = Language.get(tag)
    except LanguageTagError:
        return code
    short = language.language or code
    return short if Language.get(short).maximize() == language.maximize() else tag


def located(path: Path) -> Path | None:
    """The file itself, or the same name with `.gz`, whichever is there."""
    candidates = (path, path.with_name(f"{path.name}.gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def lines(path: Path) -> Iterator[str]:
    """The lines that are not empty, of the file or of its `.gz`.

    Raises:
        BenchmarkMissing: neither is there, or it cannot be read.
    """
    found = located(path)
    if found is None:
        raise BenchmarkMissing(
            f"{path}: no such file, nor with .gz; see evaluation.benchmarks of the recipe,"
            " --benchmarks and --data"
        )
    opened = gzip.open if found.suffix == ".gz" else open
    try:
        with opened(found, "rt", encoding="utf-8") as file:
            for line in file:
                if text := line.rstrip("\r\n"):
                    yield text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BenchmarkMissing(f"{found}: {error}") from error


def rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a tab-separated file with a header that has these columns.

    Raises:
        BenchmarkMissing: the file is not there.
        BenchmarkInvalid: it lacks a column, or a row has another number of fields.
    """
    header: list[str] | None = None
    for number, line in enumerate(lines(path), 1):
        fields = line.split("\t")
        if header is None:
            header = fields
            if missing := set(columns) - set(header):
                raise BenchmarkInvalid(
                    f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(header)}"
                )
        elif len(fields) != len(header):
            raise BenchmarkInvalid(
                f"{path}: line {number} has {len(fields)} fields, the header has {len(header)}"
            )
        else:
            yield dict(zip(header, fields, strict=True))


def objects(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line, that have these keys.

    Raises:
        BenchmarkMissing: the file is not there.
        BenchmarkInvalid: a line is no such object.
    """
    for number, line in enumerate(lines(path), 1):
        try:
            found = json.loads(line)
            missing = [key for key in keys if key not in found]
        except (ValueError, TypeError) as error:
            raise BenchmarkInvalid(f"{path}: line {number} is no JSON object: {error}") from error
        if missing:
            raise BenchmarkInvalid(f"{path}: line {number} has no {', '.join(missing)}")
        yield found


def by_language(folder: Path, before: str, after: str) -> dict[str, Path]:
    """The files `before + code + after` of a folder, plain or `.gz`, by ISO code, sorted.

    A regional variety keeps its region if the plain language lies there too (`por`, `por-BR`).

    Raises:
        BenchmarkMissing: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise BenchmarkMissing(
            f"{folder}: no such folder; see evaluation.benchmarks of the recipe, --benchmarks"
            " and --data"
        )
    codes = {
        name.removeprefix(before).removesuffix(after)
        for name in (path.name.removesuffix(".gz") for path in folder.iterdir())
        if name.startswith(before) and name.endswith(after) and len(name) > len(before + after)
    }
    found: dict[str, Path] = {}
    for code in sorted(codes, key=lambda code: (len(code), code)):
        tags = (iso(code), standardize_tag(code), code)
        tag = next(tag for tag in tags if tag not in found)
        found[tag] = folder / f"{before}{code}{after}"
    if not found:
        raise BenchmarkMissing(f"{folder}: holds no {before}LANGUAGE{after}, nor with .gz")
    return dict(sorted(found.items()))


def chosen(found: Mapping[str, Path], languages: tuple[str, ...]) -> dict[str, Path]:
    """Those of the languages, and English; all if none is named.

    Raises:
        BenchmarkMissing: a language is not there.
    """
    if not languages:
        return dict(found)
    if missing := [language for language in languages if language not in found]:
        where = next(iter(found.values())).parent
        raise BenchmarkMissing(
            f"{where}: no file for {', '.join(missing)} (the languages of evaluation.benchmarks or"
            f" --benchmarks); there are {', '.join(found)}"
        )
    return {tag: path for tag, path in found.items() if tag in languages or tag == ENGLISH}

"""Links from a program of the user's, e.g. fast_align or eflomal (GPL: called, never imported)."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from training.alignment.links import LinksInvalid, checked, parse
from training.alignment.lookup import BETWEEN
from training.alignment.words import form
from training.config.aligners import Command
from training.groups import Links

TAIL = 2000


class AlignerFailed(RuntimeError):
    """The program did not start, failed, or took too long; shows the end of its standard error."""


class CommandAligner:
    """Writes the words, lower-cased and without the punctuation around them, a pair a line."""

    def __init__(self, settings: Command) -> None:
        self._settings = settings

    def align(self, pairs: Sequence[tuple[list[str], list[str]]]) -> list[Links]:
        """Links of each pair; pairs without words on a side are not shown to the program.

        Raises:
            AlignerFailed: see there.
            LinksInvalid: a bad line, a link beyond the words, or another number of lines.
        """
        full = [number for number, (source, target) in enumerate(pairs) if source and target]
        found: list[Links] = [() for _ in pairs]
        if not full:
            return found
        sources = [" ".join(map(_shown, pairs[number][0])) for number in full]
        targets = [" ".join(map(_shown, pairs[number][1])) for number in full]
        lines = self._run(sources, targets)
        if len(lines) != len(full):
            raise LinksInvalid(
                f"{self._settings.argv[0]} printed {len(lines)} lines for {len(full)} pairs"
            )
        for row, (number, line) in enumerate(zip(full, lines, strict=True), start=1):
            place = f"output of {self._settings.argv[0]}, line {row}"
            source, target = pairs[number]
            found[number] = checked(
                parse(line, place=place), sizes=(len(source), len(target)), place=place
            )
        return found

    def _run(self, sources: list[str], targets: list[str]) -> list[str]:
        with tempfile.TemporaryDirectory(prefix="isogloss-align-") as name:
            folder = Path(name)
            files = {key: folder / f"{key}.txt" for key in ("source", "target", "both")}
            _write(files["source"], sources)
            _write(files["target"], targets)
            both = zip(sources, targets, strict=True)
            _write(files["both"], [f"{source} {BETWEEN} {target}" for source, target in both])
            argv = [_filled(argument, files) for argument in self._settings.argv]
            output, errors = folder / "stdout", folder / "stderr"
            status = self._wait(argv, output, errors)
            if status != 0:
                tail = errors.read_text("utf-8", "replace")[-TAIL:].strip()
                what = (
                    f"was stopped after {self._settings.timeout_s:g} s (timeout_s)"
                    if status is None
                    else f"ended with status {status}"
                )
                raise AlignerFailed(f"{argv[0]} {what}; its standard error ends in: {tail!r}")
            return output.read_text("utf-8").splitlines()

    def _wait(self, argv: list[str], output: Path, errors: Path) -> int | None:
        """The exit status, None if time ran out; its whole process group is ended then."""
        with output.open("wb") as out, errors.open("wb") as err:
            try:
                process = subprocess.Popen(  # noqa: S603 - the user's own recipe names it
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                raise AlignerFailed(f"{argv[0]}: {error.strerror or error}") from error
            with process:
                try:
                    return process.wait(self._settings.timeout_s)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    return None


def _shown(word: str) -> str:
    """The word as one word of a line: NFKC makes four of U+FDFA, and a bar would begin a side."""
    return "".join(form(word).split()).replace(BETWEEN, "/")


def _filled(argument: str, files: dict[str, Path]) -> str:
    for key, path in files.items():
        argument = argument.replace(f"{{{key}}}", str(path))
    return argument


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")

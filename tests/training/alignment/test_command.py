import sys

import pytest
from pydantic import ValidationError

from training.alignment.command import AlignerFailed, CommandAligner
from training.alignment.links import LinksInvalid
from training.config.aligners import Command

PAIRS = [(["The", "cat!"], ["Die", "Katze"]), ([], ["x"]), (["Dog"], ["Hund", "da"])]


def aligner(script, *files, timeout_s=30.0):
    argv = (sys.executable, "-c", script, *files)
    return CommandAligner(Command(kind="command", argv=argv, timeout_s=timeout_s))


BY_PLACE = """
import sys
for s, t in zip(open(sys.argv[1], encoding="utf-8"), open(sys.argv[2], encoding="utf-8")):
    print(*(f"{i}-{i}" for i in range(min(len(s.split()), len(t.split())))))
"""


def test_the_program_gets_both_files_and_its_links_come_back() -> None:
    found = aligner(BY_PLACE, "{source}", "{target}").align(PAIRS)
    assert found == [((0, 0), (1, 1)), (), ((0, 0),)]


def test_the_program_may_have_one_file_of_both_with_plain_words() -> None:
    script = """
import sys
lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
assert lines == ["the cat ||| die katze", "dog ||| hund da"], lines
print("0-1\\n")
"""
    assert aligner(script, "{both}").align(PAIRS) == [((0, 1),), (), ()]


def test_nothing_is_run_where_nothing_can_be_aligned() -> None:
    assert aligner("raise SystemExit(1)", "{both}").align([([], [])]) == [()]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("import sys; sys.exit('no memory')", AlignerFailed, "ended with status 1.*'no memory'"),
        ("print('0-0')", LinksInvalid, "printed 1 lines for 2 pairs"),
        ("print('0-0'); print('0-7')", LinksInvalid, "line 2: link 0-7 leads beyond"),
        ("print('x'); print('0-0')", LinksInvalid, "line 1: 'x' is no link"),
    ],
)
def test_a_program_that_fails_is_named_with_what_it_said(script, error, message) -> None:
    with pytest.raises(error, match=message):
        aligner(script, "{both}").align(PAIRS)


def test_a_program_that_hangs_is_ended_with_its_children() -> None:
    script = (
        "import subprocess, sys; print('slow', file=sys.stderr, flush=True);"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    with pytest.raises(AlignerFailed, match=r"stopped after 1 s \(timeout_s\).*slow"):
        aligner(script, "{both}", timeout_s=1.0).align(PAIRS)


def test_a_program_that_is_not_there_is_named() -> None:
    settings = Command(kind="command", argv=("/no/such/aligner", "{both}"))
    with pytest.raises(AlignerFailed, match="/no/such/aligner: No such file"):
        CommandAligner(settings).align(PAIRS)


def test_a_program_that_is_not_told_the_files_is_refused() -> None:
    with pytest.raises(ValidationError, match="names neither"):
        Command(kind="command", argv=("fast_align", "{source}"))


def test_no_shell_reads_the_arguments(tmp_path) -> None:
    script = "import sys; assert sys.argv[2] == '; touch x'; print('0-0'); print('0-0')"
    assert aligner(script, "{both}", "; touch x").align(PAIRS)[0] == ((0, 0),)


def test_a_word_stays_one_word_of_its_line() -> None:
    """NFKC spells U+FDFA as four words, and three bars begin the other side."""
    script = """
import sys
for line in open(sys.argv[1], encoding="utf-8"):
    source, target = line.split(" ||| ")
    print(f"{len(source.split()) - 1}-{len(target.split()) - 1}")
"""
    pairs = [(["The", "\ufdfa", "said"], ["x"]), (["a", "|||", "b"], ["y", "z"])]
    assert aligner(script, "{both}").align(pairs) == [((2, 0),), ((2, 1),)]

import pytest

from service.commands.terminal import console, counted, duration, moment, say, table


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (599.6, "600 s"),
        (1200, "20 min"),
        (5999, "100 min"),
        (12_000, "3.3 h"),
    ],
)
def test_a_time_is_shown_in_the_unit_that_one_waits_in(seconds, shown):
    assert duration(seconds) == shown


def test_a_moment_is_shown_in_utc_to_the_second():
    assert moment("2026-01-31T10:00:09.769+00:00") == "2026-01-31 10:00:09 UTC"
    assert moment("2026-01-31T10:00:09+02:00") == "2026-01-31 08:00:09 UTC"
    assert moment("") == ""


def test_things_are_counted_as_one_says_it():
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_what_is_said_is_not_read_as_markup(capsys):
    say("[red]a[/] [not_found]")
    say("b [/]", style="red")
    assert capsys.readouterr().out == "[red]a[/] [not_found]\nb [/]\n"


def test_a_table_has_no_lines(capsys):
    rows = table("name", "number", right=("number",))
    rows.add_row("a", "1")
    console.print(rows)
    assert capsys.readouterr().out.split() == ["name", "number", "a", "1"]

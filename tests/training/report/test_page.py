from html.parser import HTMLParser

import plotly.graph_objects as go

from training.report.page import Section, page, plot, side_by_side, table


class Outline(HTMLParser):
    """Headings, links and what the page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links, self.sections = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.fetched += [values[name] for name in ("src", "href") if name in values]
        if tag == "section":
            self.sections.append(values["id"])


def test_a_page_needs_nothing_from_anywhere():
    parts = [plot(go.Figure(go.Bar(x=[1], y=[2]))), table(["a"], [["b"]])]
    html = page("T", "s", [Section("One", "note", parts), Section("Empty", "note", [])])
    outline = Outline()
    outline.feed(html)
    assert outline.sections == ["s0"]
    assert outline.fetched == ["#s0"]
    assert "Plotly.newPlot" in html


def test_names_and_values_are_escaped():
    html = page("<i>", "&", [Section("<b>", "<u>", [table(["<c>"], [["<script>x"]])])])
    assert "<script>x" not in html
    assert "&lt;script&gt;x" in html
    assert "<h2>&lt;b&gt;</h2>" in html


def test_a_table_sets_the_best_of_a_row_in_bold_and_groups_digits():
    html = table(["", "x", "y"], [["m", 1234, 0.5], ["n", 1, 2]], best=[1, None])
    assert "<td class=best>1,234</td>" in html
    assert html.count("class=best") == 1
    assert "<td>0.50</td>" in html


def test_parts_stand_side_by_side():
    assert side_by_side(["a", "b"]) == '<div class="pair"><div>a</div><div>b</div></div>'

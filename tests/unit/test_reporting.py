"""The report kit: what may not be shown is refused, pages need no network, tables agree with themselves, bytes are the same again."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from aboveboard.evaluation import plots
from aboveboard.evaluation.rates import Rate, Unmeasured
from aboveboard.evaluation.report import FNIR, FPIR, HEADINGS, Row, Threshold, Unrenderable, rate_table
from aboveboard.reporting.page import Figure, Heading, Notice, Page, Picture, Pictures, Text
from aboveboard.reporting.tables import Column, Table, percent

EIGHTY = Threshold(80.0, "default")
BOTH = {FPIR: Rate.of(28, 535), FNIR: Rate.of(40, 400)}


def page() -> Page:
    """One of everything, with texts that would break a page that does not escape them."""
    table = Table(
        "names",
        "Names <b>",
        (Column("name", "name"), Column("share", "share", "share"), Column("count", "n", "count"), Column("hidden", "", in_page=False)),
        (("=1+1", 0.123456789012, 1200, "kept"), ("<script>alert(1)</script>", None, 0, "a,b\n\"c\"")),
        "a note",
    )  # fmt: skip
    drawn = plots.cmc("cmc", "ranks", [1, 1, 2, 5], 5, 10)
    return Page(
        "A & B", "lead", (Heading("h"), Text("t"), Notice("n", "warning"), table, drawn, Pictures((Picture("p", "c", b"\xff\xd8"),)))
    )


def row(rates: dict[str, object], threshold: object = EIGHTY) -> Row:
    return Row({}, threshold, rates, {})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row({FPIR: BOTH[FPIR]}), "fpir without fnir"),
        (row({FPIR: 0.05, FNIR: BOTH[FNIR]}), "without count and interval"),
        (row({FPIR: None, FNIR: BOTH[FNIR]}), "without count and interval"),
        (row(dict(BOTH), threshold=None), "without a threshold"),
        (row({FPIR: Rate(0, 0, 0.0, 0.0, 1.0, "none"), FNIR: BOTH[FNIR]}), "no interval"),
        (row({FPIR: Rate(1, 10, float("nan"), 0.0, 1.0, "none"), FNIR: BOTH[FNIR]}), "no interval"),
    ],
)
def test_a_rate_without_what_belongs_to_it_cannot_be_rendered(bad: Row, said: str) -> None:
    with pytest.raises(Unrenderable, match=said):
        rate_table("t", "t", [bad], [], {FPIR: HEADINGS[FPIR]})


def test_a_curve_of_false_matches_needs_the_misses_too() -> None:
    lines = {"at 80": [Rate.of(1, 10)], "at 99": [Rate.of(1, 10)]}
    with pytest.raises(Unrenderable, match="FPIR without FNIR at at 99"):
        plots.fpir_by_size("f", "c", [10], lines, {"at 80": Rate.of(1, 10)})


def test_misses_that_nobody_measured_are_named_as_such() -> None:
    table = rate_table("t", "t", [row({FPIR: BOTH[FPIR], FNIR: Unmeasured("not reported")})], [], {FPIR: "FPIR", FNIR: "FNIR"})
    (kept,) = table.document()["rows"]
    assert (kept["fpir_errors"], kept["fpir_trials"], kept["fpir_standing"], kept["threshold"]) == (28, 535, "insufficient", "80")
    assert (kept["fnir"], kept["fnir_method"], kept["fnir_standing"]) == (None, "not reported", "not measured")
    text = Page("t", "", (table,)).files()["report.html"].decode()
    assert "28 of 535" in text
    assert "5.23 % [3.65, 7.46]*" in text
    assert "not reported" in text


def test_thresholds_that_contradict_themselves_are_refused() -> None:
    assert Threshold.of("", "unknown").name == "unknown"
    for value, origin in ((None, "request"), (80.0, "none")):
        with pytest.raises(ValueError, match="threshold of origin"):
            Threshold(value, origin)
    with pytest.raises(ValueError, match="no origin"):
        Threshold.of("80", "guess")


def test_a_page_loads_nothing_and_escapes_everything() -> None:
    text = page().files()["report.html"].decode()
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Reader().feed(text)
    assert not {"script", "link", "iframe", "object", "b"} & {tag for tag, _ in seen}
    loaded = [value for tag, attributes in seen for name, value in attributes.items() if name in ("src", "href", "xlink:href", "srcset")]
    assert loaded
    assert all(value.startswith(("data:", "#")) for value in loaded if value)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text
    assert "@media print" in text
    assert "&lt;script&gt;alert(1)" in text
    assert {"svg", "table", "img", "h2"} <= {tag for tag, _ in seen}


def test_csv_and_json_hold_the_same_and_no_formula() -> None:
    files = page().files()
    document = json.loads(files["tables.json"])["names"]
    rows = list(csv.DictReader(io.StringIO(files["tables/names.csv"].decode())))
    assert list(rows[0]) == document["columns"] == ["name", "share", "count", "hidden"]
    assert document["rows"][0] == {"name": "=1+1", "share": 0.123456789, "count": 1200, "hidden": "kept"}
    assert rows[0] == {"name": "'=1+1", "share": "0.123456789", "count": "1200", "hidden": "kept"}
    assert rows[1] == {"name": "<script>alert(1)</script>", "share": "", "count": "0", "hidden": 'a,b\n"c"'}


def test_the_same_report_is_the_same_bytes() -> None:
    first, second = page().files(), page().files()
    assert first == second
    assert set(first) == {"report.html", "tables.json", "tables/names.csv", "figures/cmc.svg", "figures/cmc.png"}
    assert first["figures/cmc.png"].startswith(b"\x89PNG")
    assert b"<dc:date>" not in first["figures/cmc.svg"]


def test_names_that_meet_are_refused() -> None:
    figure = Figure("same", "", "", b"<svg/>", b"")
    for bad in ((figure, figure), (Figure("../up", "", "", b"<svg/>", b""),)):
        with pytest.raises(ValueError, match="names of their own"):
            Page("t", "", bad).files()
    with pytest.raises(ValueError, match="a cell for each"):
        Table("t", "t", (Column("a", "a"),), (("1", "2"),))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.00"),
        (0.3137, "31.37"),
        (0.0866141, "8.66"),
        (0.0004, "0.04"),
        (1.2e-7, "1.2e-5"),
        (0.99999, ">99.99"),
        (1.0, "100.00"),
        (-0.05, "-5.00"),
    ],
)
def test_per_cents_are_never_rounded_to_certainty(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_det_has_normal_deviate_axes() -> None:
    """Equally spaced ticks are equal steps of the normal deviate: 1 % and 10 % lie 1.045 deviates apart, 10 % and 40 % 1.028."""
    rng = np.random.default_rng(0)
    false, missed = np.sort(rng.random(400))[::-1], np.sort(rng.random(400))
    drawn = plots.det("det", "c", false, missed, ("FPIR", "FNIR"), (1000, 1000), {"80": (0.1, 0.2)})
    tick = r'<g id="xtick_\d+">.*?<use xlink:href="[^"]+" x="([\d.]+)".*?<text[^>]*>([\d.]+)</text>'
    places = {label: float(place) for place, label in re.findall(tick, drawn.svg.decode(), re.S)}
    assert (places["10"] - places["1"]) / (places["40"] - places["10"]) == pytest.approx((2.3263 - 1.2816) / (1.2816 - 0.2533), rel=1e-3)


def test_the_names_of_marks_on_a_det_do_not_overlap() -> None:
    false, missed = np.linspace(0.9, 0.001, 50), np.linspace(0.001, 0.9, 50)
    marks = {"80": (0.0, 0.056), "95": (0.0, 0.075), "99": (0.0, 0.084)}
    drawn = plots.det("det", "c", false, missed, ("FMR", "FNMR"), (25_000, 107), marks).svg.decode()
    heights = [float(re.findall(rf'<text[^>]*? y="([\d.]+)"[^>]*>{name}</text>', drawn)[0]) for name in marks]
    assert heights[0] - heights[1] >= 11
    assert heights[1] - heights[2] >= 11

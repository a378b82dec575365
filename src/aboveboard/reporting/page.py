"""A report as one self-contained HTML page, printable, with every table beside it as CSV and JSON and every figure as SVG and PNG."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from aboveboard.reporting.tables import Table, json_of, shown

PAGE, TABLES = "report.html", "tables.json"

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.5rem 4rem; background: #fff; color: #1b1b1b;
  font: 16px/1.5 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid #bbb; padding-bottom: .2rem; }
p { max-width: 46rem; margin: .6rem 0; }
.lead { font-size: 1.12rem; color: #333; }
.notice { border-left: 4px solid #0072b2; background: #eef5fa; padding: .5rem .9rem; max-width: 46rem; margin: 1rem 0; }
.notice.warning { border-color: #b3261e; background: #fcefee; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
td.figure, th.figure { text-align: right; }
.note, figcaption, footer { font-size: .88rem; color: #444; max-width: 46rem; }
figure { margin: 1.4rem 0; }
figure svg { max-width: 100%; height: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.pictures figure { margin: 0; max-width: 21rem; }
.pictures img { max-width: 100%; height: auto; display: block; }
footer { margin-top: 3rem; border-top: 1px solid #bbb; padding-top: .6rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  h2, caption { break-after: avoid; }
  tr, figure, .notice { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding-right: .35rem; }
  @page { margin: 18mm 15mm; }
}
""".strip()


@dataclass(frozen=True, slots=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A paragraph that must not be missed."""

    text: str
    kind: Literal["note", "warning"] = "note"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, as SVG in the page and as SVG and PNG beside it; `alternative` says in words what it shows."""

    name: str
    caption: str
    alternative: str
    svg: bytes
    png: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """A photograph (JPEG) with a caption."""

    name: str
    caption: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Pictures:
    """Photographs side by side; they stand in the page, and nowhere else unless the caller puts them there."""

    pictures: tuple[Picture, ...]


Block = Heading | Text | Notice | Table | Figure | Pictures


@dataclass(frozen=True)
class Page:
    """A report: what it is about in one sentence (`lead`), its blocks from top to bottom, and where it comes from (`footer`)."""

    title: str
    lead: str
    blocks: tuple[Block, ...]
    footer: str = ""

    @property
    def tables(self) -> list[Table]:
        """The tables among the blocks."""
        return [block for block in self.blocks if isinstance(block, Table)]

    def files(self) -> dict[str, bytes]:
        """Every file of the report by its path within the report's folder: page, tables.json, tables/*.csv, figures/*."""
        tables, figures = self.tables, [block for block in self.blocks if isinstance(block, Figure)]
        names = [table.name for table in tables] + [figure.name for figure in figures]
        if len(set(names)) < len(names) or not all(re.fullmatch(r"[a-z0-9_-]{1,64}", name) for name in names):
            raise ValueError("tables and figures need names of their own, of small letters, digits and the signs _ -")
        return {
            PAGE: render(self),
            TABLES: json_of({table.name: table.document() for table in tables}),
            **{f"tables/{table.name}.csv": table.csv() for table in tables},
            **{f"figures/{figure.name}.svg": figure.svg for figure in figures},
            **{f"figures/{figure.name}.png": figure.png for figure in figures},
        }


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files into a folder that is made for them. What is there already under these names is replaced."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def render(page: Page) -> bytes:
    """The page as HTML in UTF-8; it loads nothing from anywhere, and says so to the browser."""
    body = "\n".join(_block(block) for block in page.blocks)
    footer = f"<footer>{escape(page.footer)}</footer>\n" if page.footer else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        f'<h1>{escape(page.title)}</h1>\n<p class="lead">{escape(page.lead)}</p>\n{body}\n{footer}</body>\n</html>\n'
    ).encode()


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Notice(text, kind):
            return f'<p class="notice {kind}">{escape(text)}</p>'
        case Table():
            return _table(block)
        case Figure():
            svg = re.sub(r"^.*?(?=<svg)", "", block.svg.decode(), flags=re.S)
            svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(block.alternative)}" ', 1)
            return f"<figure>{svg}<figcaption>{escape(block.caption)}</figcaption></figure>"
        case Pictures(pictures):
            return '<div class="pictures">\n' + "\n".join(_picture(picture) for picture in pictures) + "\n</div>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.jpeg).decode()
    caption = escape(picture.caption)
    return f'<figure><img alt="{caption}" src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _table(table: Table) -> str:
    kept = [(i, column) for i, column in enumerate(table.columns) if column.in_page]

    def line(tag: str, texts: Sequence[str]) -> str:
        kinds = ["" if column.kind == "text" else ' class="figure"' for _, column in kept]
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(kinds, texts, strict=True)) + "</tr>"

    head = line("th", [column.heading for _, column in kept])
    body = "\n".join(line("td", [shown(row[i], column.kind) for i, column in kept]) for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table>\n<caption>{escape(table.title)}</caption>\n<thead>{head}</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>{note}"
    )

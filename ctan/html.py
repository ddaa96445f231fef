"""Self-contained HTML pages: one style, no file or address besides the page itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --accent: #1f5fa8; --good: #1a7f4b;
  --bad: #b3261e; --back: #f6f8fa; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  margin: 0 auto; max-width: 1180px; padding: 32px 28px 72px; background: #fff; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3em; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.4em 0 .6em; padding-bottom: .25em; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6em 0 .4em; }
p { margin: .5em 0; max-width: 78ch; }
.soft, caption, figcaption { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.1rem; max-width: 72ch; }
table { border-collapse: collapse; margin: .8em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .38em .8em; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; font-size: .86rem; color: var(--soft); border-bottom: 2px solid var(--line); }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
td strong { color: var(--accent); }
caption { text-align: left; padding-bottom: .4em; }
td .soft { font-size: inherit; }
.scroll { overflow-x: auto; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.card { background: var(--back); border: 1px solid var(--line); border-radius: 8px; padding: 16px 20px;
  margin: 18px 0; }
.card p { max-width: 100ch; } .card p:first-child { margin-top: 0; } .card p:last-child { margin-bottom: 0; }
figure { margin: 1em 0; } img { max-width: 100%; height: auto; display: block; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr)); gap: 14px; margin: 18px 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px 14px; }
.tile b { display: block; font-size: 1.65rem; line-height: 1.3; font-weight: 650; letter-spacing: -.01em; }
.tile span { display: block; color: var(--soft); font-size: .86rem; line-height: 1.4; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: .8em 0; font-size: .92rem; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2em 1.3em; font-size: .9rem; margin: 1.2em 0; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.dense { font-size: .93rem; } .dense th, .dense td { padding: .38em .5em; }
.dense td:first-child { max-width: 205px; }
.side { display: flex; flex-wrap: wrap; gap: 0 48px; }
th.group { text-align: center; border-bottom: 1px solid var(--line); }
td small { display: block; color: var(--soft); font-size: .76rem; white-space: nowrap; }
tr.chosen td { background: #eef5fc; } tr.aside td { color: var(--soft); }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
details > summary { cursor: pointer; color: var(--accent); margin: .6em 0; }
pre { background: var(--back); border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
code { font-size: .9em; }
@media (max-width: 700px) { body { padding: 20px 14px 48px; } th, td { padding: .3em .4em; font-size: .84rem; } }
@media print { .scroll { overflow: visible; } th, td { padding: .2em .35em; font-size: 7.5pt; }
  td small { font-size: 6pt; white-space: normal; } body { padding: 0; max-width: none; }
  h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


class Markup(str):
    """Text that is HTML already; everything else is escaped."""


def escape(value: object) -> Markup:
    """Return the value as HTML; `Markup` stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """Return `<tag>content</tag>`, contents escaped; `class_` gives the class."""
    given = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{given}>{''.join(escape(part) for part in content)}</{tag}>")


def join(*parts: object) -> Markup:
    """Return the parts one after the other, each escaped unless it is `Markup`."""
    return Markup("\n".join(escape(part) for part in parts))


def table(
    headers: Sequence[object], rows: Sequence[Sequence[object]], caption: object = "", text: bool = False
) -> Markup:
    """Return a table; the first column is aligned left, the others right unless `text`.

    Args:
        headers: column titles.
        rows: cells, escaped unless they are `Markup`.
        caption: what the table shows.
        text: whether all columns hold words.
    """
    head = element("thead", element("tr", *(element("th", cell) for cell in headers)))
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    parts = ([element("caption", caption)] if caption else []) + [head, body]
    return element("div", element("table", *parts, **({"class_": "text"} if text else {})), class_="scroll")


def image(png: bytes, alt: str, caption: object = "") -> Markup:
    """Return a PNG inside the page, with a description for those who cannot see it."""
    data = base64.b64encode(png).decode("ascii")
    picture = Markup(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">')
    return element("figure", picture, *([element("figcaption", caption)] if caption else []))


def page(title: str, *body: object) -> str:
    """Return a whole page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'  # noqa: E501
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{join(*body)}\n</body></html>\n'  # noqa: E501

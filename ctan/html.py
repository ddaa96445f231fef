"""Self-contained HTML pages: one style, no file or address besides the page itself."""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --accent: #1f5fa8; --good: #1a7f4b;
  --bad: #b3261e; --back: #f6f8fa; --page: #fff; --chosen: #eef5fc; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #9ba8b8; --line: #323c49;
  --accent: #84b8f2; --good: #5fce92; --bad: #ff9189; --back: #1a212a; --page: #11161c; --chosen: #17293d; }
  figure img { background: #fff; border-radius: 6px; } }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  margin: 0 auto; max-width: 1340px; padding: 32px 28px 72px; background: var(--page); }
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
.scroll { overflow-x: auto; } .tall { max-height: 30em; overflow-y: auto; }
.tall th { position: sticky; top: 0; background: var(--page); }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
th button::after { content: " \\2195"; opacity: .45; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
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
nav { display: flex; gap: .2em 1.3em; font-size: .9rem; margin: 1.2em -28px; padding: .5em 28px;
  position: sticky; top: 0;
  z-index: 2; background: var(--page); border-bottom: 1px solid var(--line); flex-wrap: wrap; }
nav a[aria-current] { color: var(--ink); font-weight: 600; }
section { scroll-margin-top: 3em; }
@media (min-width: 1760px) { nav { position: fixed; top: 32px; left: calc(50% - 865px); width: 180px;
  margin: 0; padding: 0;
  flex-direction: column; border: 0; white-space: normal; max-height: 92vh; } section { scroll-margin-top: 0; } }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.dense { font-size: .93rem; } .dense th, .dense td { padding: .38em .42em; }
.dense td:first-child { max-width: 205px; }
.side { display: flex; flex-wrap: wrap; gap: 0 48px; }
th.group { text-align: center; border-bottom: 1px solid var(--line); }
td small { display: block; color: var(--soft); font-size: .76rem; white-space: nowrap; }
tr.chosen td { background: var(--chosen); } tr.aside td { color: var(--soft); }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
details > summary { cursor: pointer; color: var(--accent); margin: .6em 0; }
pre { background: var(--back); border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
code { font-size: .9em; }
@media (max-width: 700px) { body { padding: 20px 14px 48px; } th, td { padding: .3em .4em; font-size: .84rem; }
  nav { margin: 1em -14px; padding: .5em 14px; flex-wrap: nowrap; white-space: nowrap; overflow-x: auto;
    scrollbar-width: none; } figure.chart { overflow-x: auto; }
  figure.chart img { min-width: 640px; } }
@media print { nav, .download { display: none; } .scroll, .tall { overflow: visible; max-height: none; }
  th, td { padding: .2em .35em; font-size: 7.5pt; }
  td small { font-size: 6pt; white-space: normal; } body { padding: 0; max-width: none; }
  h2, h3, h2 + p { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


# Tables of the class `sortable` sort by a click on a title; the contents mark the section that is read; a table that is
# packed into the page becomes a file. Without a script all of it is still there to read.
_SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const titles = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  titles.forEach((title, column) => {
    const button = document.createElement('button');
    button.textContent = title.textContent;
    title.replaceChildren(button);
    button.addEventListener('click', () => {
      const up = title.getAttribute('aria-sort') !== 'ascending', body = table.tBodies[0];
      titles.forEach(other => other.removeAttribute('aria-sort'));
      title.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)], [m, n] = [parseFloat(x), parseFloat(y)];
        if (x !== '' && y !== '' && !isNaN(x) && !isNaN(y)) return m - n;
        if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
        return x.localeCompare(y, undefined, {numeric: true});
      };
      body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
    });
  });
}
const seen = new IntersectionObserver(entries => entries.forEach(entry => {
  const link = document.querySelector(`nav a[href="#${entry.target.id}"]`);
  if (!link || !entry.isIntersecting) return;
  document.querySelectorAll('nav a').forEach(other => other.removeAttribute('aria-current'));
  link.setAttribute('aria-current', 'true');
}), {rootMargin: '-15% 0px -75% 0px'});
document.querySelectorAll('section[id]').forEach(section => seen.observe(section));
for (const link of document.querySelectorAll('a[data-gzip]')) {
  link.hidden = false;
  link.addEventListener('click', async event => {
    if (link.href.startsWith('blob:')) return;
    event.preventDefault();
    const bytes = Uint8Array.from(atob(link.dataset.gzip), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    link.href = URL.createObjectURL(await new Response(stream).blob());
    link.click();
  });
}
"""

_NEEDS_SCRIPT = ('<table class="sortable"', "<nav ", " data-gzip=")


class Markup(str):
    """Text that is HTML already; everything else is escaped."""


def escape(value: object) -> Markup:
    """Return the value as HTML; `Markup` stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """Return `<tag>content</tag>`, contents escaped; `class_` gives the class, `aria_label` `aria-label`."""
    names = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    given = "".join(f' {name}="{html.escape(value)}"' for name, value in names)
    return Markup(f"<{tag}{given}>{''.join(escape(part) for part in content)}</{tag}>")


def join(*parts: object) -> Markup:
    """Return the parts one after the other, each escaped unless it is `Markup`."""
    return Markup("\n".join(escape(part) for part in parts))


def table(
    headers: Sequence[object],
    rows: Sequence[Sequence[object]],
    caption: object = "",
    text: bool = False,
    sortable: bool = False,
) -> Markup:
    """Return a table; the first column is aligned left, the others right unless `text`.

    Args:
        headers: column titles.
        rows: cells, escaped unless they are `Markup`.
        caption: what the table shows.
        text: whether all columns hold words.
        sortable: whether a click on a title sorts; such a table scrolls in a window of its own.
    """
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in headers)))
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    parts = ([element("caption", caption)] if caption else []) + [head, body]
    css = " ".join(name for name, wanted in (("text", text), ("sortable", sortable)) if wanted)
    shown = element("table", *parts, **({"class_": css} if css else {}))
    return element("div", shown, class_="scroll tall" if sortable else "scroll")


def image(picture: bytes, alt: str, caption: object = "") -> Markup:
    """Return a PNG or SVG inside the page, with a description for those who cannot see it."""
    data, is_svg = base64.b64encode(picture).decode("ascii"), picture.startswith(b"<")
    source = f"data:image/{'svg+xml' if is_svg else 'png'};base64,{data}"
    shown = Markup(f'<img alt="{html.escape(alt)}" src="{source}">')
    parts = [shown, *([element("figcaption", caption)] if caption else [])]
    return element("figure", *parts, **({"class_": "chart"} if is_svg else {}))


def contents(sections: Sequence[tuple[str, str]]) -> Markup:
    """Return links to the sections of a page, which stay in sight.

    Args:
        sections: id and title of each.
    """
    links = (element("a", title, href=f"#{anchor}") for anchor, title in sections)
    return element("nav", *links, aria_label="Contents")


def download(text: str, name: str, label: object) -> Markup:
    """Return a link that saves a text, which lies packed in the page, as a file.

    Args:
        text: content of the file.
        name: of the file.
        label: of the link.
    """
    packed = base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")
    given = {"href": "#", "download": name, "data_gzip": packed, "hidden": "", "class_": "download"}
    return element("a", label, **given)


def page(title: str, *body: object) -> str:
    """Return a whole page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'  # noqa: E501
    content = join(*body)
    script = f"<script>{_SCRIPT}</script>" if any(part in content for part in _NEEDS_SCRIPT) else ""
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n{content}\n{script}</body></html>\n'  # noqa: E501

"""Pages: everything is escaped but what is HTML already, and nothing is loaded."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from ctan.html import Markup, element, escape, image, join, page, table

NASTY = "<script>alert('x') & \"y\"</script>"
ESCAPED = "&lt;script&gt;alert(&#x27;x&#x27;) &amp; &quot;y&quot;&lt;/script&gt;"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Tags(HTMLParser):
    """Collect tags and attributes; fail where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_is_escaped_and_markup_is_not() -> None:
    assert escape(NASTY) == ESCAPED
    assert escape(Markup("<b>bold</b>")) == "<b>bold</b>"
    assert escape(escape(NASTY)) == ESCAPED  # once is enough
    assert escape(3.5) == "3.5"


def test_text_that_markup_was_put_into_is_text_again() -> None:
    """Formatting or adding gives a plain string: what came in from outside must not slip through."""
    assert escape("<i>" + Markup("<b>")) == "&lt;i&gt;&lt;b&gt;"
    assert escape(f"{Markup('<b>')}{NASTY}") == f"&lt;b&gt;{ESCAPED}"
    assert escape(Markup("<b>") + NASTY) == f"&lt;b&gt;{ESCAPED}"


def test_elements_escape_contents_and_attributes() -> None:
    assert element("p", NASTY, Markup("<br>")) == f"<p>{ESCAPED}<br></p>"
    assert element("div", "x", class_="a", id="b") == '<div class="a" id="b">x</div>'
    ((tag, attributes),) = Tags(element("p", "x", title=NASTY)).seen
    assert (tag, attributes) == ("p", {"title": NASTY})


def test_parts_are_joined_by_lines() -> None:
    assert join("a < b", Markup("<hr>"), 1) == "a &lt; b\n<hr>\n1"
    assert isinstance(join("a"), Markup)


@pytest.mark.parametrize("text", [False, True])
def test_a_table_holds_every_cell_in_order(text: bool) -> None:
    made = Tags(table(["name", NASTY], [["a", 1], [Markup("<b>b</b>"), NASTY]], caption="what & why", text=text))
    assert [t for t in made.texts if t.strip()] == ["what & why", "name", NASTY, "a", "1", "b", NASTY]
    names = [tag for tag, _ in made.seen]
    assert (names.count("tr"), names.count("th"), names.count("td"), names.count("b")) == (3, 2, 4, 1)
    (attributes,) = [attributes for tag, attributes in made.seen if tag == "table"]
    assert attributes == ({"class": "text"} if text else {})


def test_a_table_without_rows_and_caption_has_its_head() -> None:
    names = [tag for tag, _ in Tags(table(["a"], [])).seen]
    assert names == ["div", "table", "thead", "tr", "th", "tbody"]


def test_an_image_is_inside_the_page_and_described() -> None:
    png = bytes(range(256))
    made = Tags(image(png, 'dose of "pt_1" & more', caption=NASTY))
    (attributes,) = [attributes for tag, attributes in made.seen if tag == "img"]
    head, data = (attributes["src"] or "").split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == png
    assert attributes["alt"] == 'dose of "pt_1" & more'
    assert NASTY in made.texts
    assert "figcaption" not in image(png, "x")


def test_a_page_is_whole_escaped_and_loads_nothing() -> None:
    text = page(NASTY, element("h1", "Title"), NASTY, image(b"png", "x"))
    assert text.startswith("<!doctype html>\n")
    made = Tags(text)
    assert f"<title>{ESCAPED}</title>" in text
    tags = [tag for tag, _ in made.seen]
    assert "script" not in tags
    assert "link" not in tags
    for _, attributes in made.seen:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://|url\(|@import", text)
    assert ("meta", {"charset": "utf-8"}) in made.seen

"""Every library in the locks has a licence that somebody has looked at, and the page lists them as they are."""

from __future__ import annotations

import sys

import pytest

from tests.project import licences

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page lists what a lock brings on Linux")


def test_every_library_has_a_licence_that_was_looked_at() -> None:
    assert [name for name, licence in licences.stated().items() if not licences.kind(name, licence)] == []


def test_a_licence_nobody_has_looked_at_is_found() -> None:
    assert licences.kind("x", "MIT AND AGPL-3.0") == ""
    assert licences.kind("x", "UNKNOWN") == ""
    assert licences.kind("x", "BSD-3-Clause AND 0BSD AND MIT") == "permissive"


def test_the_page_lists_them_as_they_are() -> None:
    written = licences.PAGE.read_text(encoding="utf-8").partition(licences.BEGIN)[2].strip()
    assert written == licences.table().strip(), "run python -m tests.project.licences"

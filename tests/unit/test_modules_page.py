"""The map of the modules is the one that their docstrings make."""

from __future__ import annotations

from tests.support.modules_page import PAGE, page


def test_the_page_is_made_from_the_docstrings_as_they_are() -> None:
    assert PAGE.read_text() == page(), "run `just docs`"

"""The map of the modules is the one that their docstrings make."""

from __future__ import annotations

import re

from tests.support.modules_page import PAGE, page


def test_the_page_is_made_from_the_docstrings_as_they_are() -> None:
    assert PAGE.read_text() == page(), "run `just docs`"


def test_each_module_is_told_as_a_thing_and_not_as_a_question() -> None:
    told = re.findall(r"^\| `([\w.]+)` \| (\w+)", page(), re.M)
    questions = {"What", "How", "Where", "Who", "Whose", "When", "Which", "Why"}
    assert len(told) > 200
    assert [module for module, word in told if word in questions] == []

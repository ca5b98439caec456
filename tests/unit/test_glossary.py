"""One word, one meaning: what GLOSSARY.md says is what the package does."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import rlm_wasm

ROOT: Final = Path(rlm_wasm.__file__).parent
PAGE: Final = (ROOT.parent / "GLOSSARY.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its two head lines."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def definitions(source: str) -> Iterator[tuple[str, bool]]:
    """Yield the name of every class and function of a module, and whether it is a class of its top level."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, node in tree.body
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, False


def modules() -> dict[str, str]:
    """Return the source of each module by its dotted name within the package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for path in sorted(ROOT.rglob("*.py"))
    }


def homes(sources: dict[str, str]) -> dict[str, list[str]]:
    """Return the modules that define each class."""
    found = defaultdict(list)
    for module, source in sources.items():
        for name, is_class in definitions(source):
            if is_class:
                found[name].append(module)
    return found


def words(name: str) -> set[str]:
    """Return the words that a name is made of: of `ZygoteClient`, or of `zygote_client`."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def retired(name: str, words_of_page: set[str]) -> set[str]:
    """Return the retired words in a name, in the singular or in the plural."""
    return {word for word in words(name) if word in words_of_page or word.removesuffix("s") in words_of_page}


def test_a_class_name_has_one_home_or_the_page_says_why_not() -> None:
    twice = {name: sorted(where) for name, where in homes(modules()).items() if len(where) > 1}
    told = {row[0]: sorted(re.findall(r"[\w.]+", row[1])) for row in rows("Names with two homes")}
    assert twice == told
    assert all(row[2] for row in rows("Names with two homes"))


def test_a_second_home_is_found() -> None:
    sources = modules() | {"engine.planted": "class Ledger: ..."}
    assert sorted(homes(sources)["Ledger"]) == ["engine.planted", "scheduler.ledger"]


def test_no_name_carries_a_retired_word() -> None:
    gone = {row[0] for row in rows("Retired words")}
    found = [
        f"{module}: {name}"
        for module, source in modules().items()
        for name in (*module.split("."), *(name for name, _ in definitions(source)))
        if retired(name, gone)
    ]
    assert found == []


@pytest.mark.parametrize("name", ["Nursery", "begin_vigil", "SessionSeats", "outbox"])
def test_a_retired_word_is_found(name: str) -> None:
    assert retired(name, {row[0] for row in rows("Retired words")})


def test_each_word_is_told_once_and_in_order() -> None:
    told = [row[0] for row in rows("Words")]
    assert told == sorted(set(told), key=str.lower)
    assert all(row[1] for row in rows("Words"))

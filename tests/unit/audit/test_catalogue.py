"""The table of events: complete, true of every event that is made, and what the page says."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import msgspec
import pytest

import rlm_wasm
from rlm_wasm.audit.catalogue import KINDS, fault_of, unheard_of
from rlm_wasm.events import Event
from tests.support.core_facts import RUN
from tests.support.events_page import PAGE, page

ROOT = Path(rlm_wasm.__file__).parent
FIRST_LOGS = Path(__file__).parents[2] / "cases" / "events_v1.toml"
GOOD = Event(1, RUN, 3, 9, 0, None, "query_sent", {"request": 1, "attempt": 1})
# Where the name of a kind is an argument, and which.
MAKERS = {"record": 1, "_note": 0, "_number": 0, "_admit": 0, "Noted": 1}


def kinds_in_the_source() -> set[str]:
    """Return every str literal in the place of a kind, and the kinds handed on by variables as such."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
                place = MAKERS.get(str(name))
                if place is not None and place < len(node.args):
                    argument = node.args[place]
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        found.add(argument.value)
    return found


def test_every_kind_that_is_made_anywhere_is_in_the_table_and_no_other() -> None:
    assert kinds_in_the_source() == set(KINDS)


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.support.events_page"


def test_logs_that_were_written_before_a_field_came_are_still_read() -> None:
    required = {
        kind: {name for name, field in known.fields.items() if not (field.optional or field.later)}
        for kind, known in KINDS.items()
    }
    first = tomllib.loads(FIRST_LOGS.read_text(encoding="utf-8"))
    # What a first log has may become optional, never unknown; nothing else is wanted of one.
    for kind, names in first.items():
        assert required[kind] <= set(names), f"{kind}: mark what is new as `later`"
        assert set(names) <= set(KINDS[kind].fields), f"{kind}: a field is gone; raise EVENT_VERSION"


def test_fields_that_no_event_of_a_log_has_are_told_and_no_others() -> None:
    old = Event(1, RUN, 3, 9, 0, None, "cell_started", {"cell": 1, "source_bytes": 1})
    assert fault_of(old) is None
    new = msgspec.structs.replace(old, data={**old.data, "fuel": 1})
    assert unheard_of([old])["cell_started"] == {"fuel"}
    assert "cell_started" not in unheard_of([old, new])  # one that left it out in between is no older log
    assert "text" not in unheard_of([]).get("query_answered", set())


def test_an_event_that_is_right_has_no_fault() -> None:
    assert fault_of(GOOD) is None


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"v": 2}, "v: is 2"),
        ({"kind": "query_lost"}, "kind: 'query_lost' is not known"),
        ({"data": {"request": 1}}, "data.attempt: is missing"),
        ({"data": {"request": 1, "attempt": 1, "key": "x"}}, "data.'key': query_sent has no such field"),
        ({"data": {"request": "1", "attempt": 1}}, "data.request: must be int, not str"),
        ({"data": {"request": True, "attempt": 1}}, "data.request: must be int, not bool"),
        ({"data": {"request": 1.0, "attempt": 1}}, "data.request: must be int, not float"),
        ({"data": {"request": None, "attempt": 1}}, "data.request: must be int, not NoneType"),
        ({"kind": "overdraft", "data": {"dimensions": "calls"}}, "data.dimensions: must be [str], not str"),
        ({"kind": "overdraft", "data": {"dimensions": [1]}}, "data.dimensions: must be [str], not list"),
    ],
)
def test_what_is_wrong_with_an_event_is_said(changed: dict, what: str) -> None:
    fault = fault_of(msgspec.structs.replace(GOOD, **changed))
    assert fault is not None
    assert fault.startswith(what)

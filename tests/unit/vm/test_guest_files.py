"""Files as model-written code uses them: each cell runs in the guest and comes to what it would anywhere."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.vm.session import Session, drive
from tests.support.sandbox_facts import MIB, completed, run_cell

pytestmark = pytest.mark.guest

CASES = tomllib.loads((Path(__file__).parents[2] / "cases" / "guest_files.toml").read_text("utf-8"))
CELLS = {case["name"]: case["source"] for case in CASES["cell"]}
ERRORS = {case["source"]: (case["type"], case["says"]) for case in CASES["error"]}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_with_files_comes_to_what_it_comes_to_anywhere(session: Session, name: str) -> None:
    result = completed(session, CELLS[name])
    assert result.result == "True", result
    assert result.stderr == ""


@pytest.mark.parametrize("source", ERRORS)
def test_what_is_not_there_is_the_ordinary_error(session: Session, source: str) -> None:
    kind, message = ERRORS[source]
    error = run_cell(session, source).error
    assert isinstance(error, GuestException)
    assert error.type_name == kind
    assert message in error.guest_message


def test_files_stay_from_cell_to_cell_and_no_other_session_has_them(
    make_session: Callable[..., Session],
) -> None:
    one, two = make_session(), make_session()
    completed(one, "open('/tmp/mine', 'w').write('1')")
    assert completed(one, "open('/tmp/mine').read()").result == "'1'"
    assert completed(two, "import os; os.listdir('/tmp')").result == "[]"


def test_files_are_in_a_snapshot_and_what_is_open_is_open(session: Session) -> None:
    completed(session, "f = open('/tmp/a', 'w+'); f.write('one'); f.flush()")
    kept = drive(session.snapshot())
    assert kept is not None
    completed(session, "f.write('two'); f.close(); import os; os.remove('/tmp/a')")
    session.restore(kept)
    completed(session, "f.write('three'); f.close()")
    assert completed(session, "open('/tmp/a').read()").result == "'onethree'"


def test_a_file_takes_memory_once_and_gives_it_back(make_session: Callable[..., Session]) -> None:
    """Ten times as much as there is memory, one file after another."""
    session = make_session(memory_bytes_max=96 * MIB, files_bytes_max=32 * MIB)
    source = """
for k in range(30):
    with open('/tmp/f', 'wb') as f:
        for _ in range(30):
            f.write(b'x' * 1_000_000)
k"""
    assert completed(session, source).result == "29"

"""At the end of the memory the outcome is the cell's own, whatever had to be told, and the next can free."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlm_wasm.outcomes import SessionState
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import MIB, completed, run_cell

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-003", "T-022")]

MEMORY_BYTES = 40 * MIB
FILLED = ("completed", "memory_exceeded", "guest_exception")
# Each lives with the MemoryError, so that what is told afterwards has to be told without memory.
FILLINGS = {
    "variables of 1 byte": "globals()['v%d' % i] = bytes(1); i += 1",
    "variables of 40 bytes": "globals()['v%d' % i] = bytes(40); i += 1",
    "variables of 1,000 bytes": "globals()['v%d' % i] = bytes(1_000); i += 1",
    "variables of 5,000 bytes": "globals()['v%d' % i] = bytes(5_000); i += 1",
    "a list": "x.append((i, i + 1)); i += 1",
    "a dict": "x[0]['k%d' % i] = bytes(100); i += 1",
}
AFTERWARDS = {
    "nothing": "",
    "an exception": "1/0",
    "a long exception": "raise ValueError('z' * 3_000)",
    "a result": "i",
    "output": "print('y' * 5_000)",
}
_STAIRS = """
x, n = None, 1 << 20
while n >= %d:
    try:
        while True: x = (x, bytearray(n))
    except MemoryError: n //= 2
"""


@pytest.fixture
def small_session(make_session: Callable[..., Session]) -> Session:
    return make_session(memory_bytes_max=MEMORY_BYTES)


@pytest.mark.parametrize("after", AFTERWARDS.values(), ids=AFTERWARDS.keys())
@pytest.mark.parametrize("filling", FILLINGS.values(), ids=FILLINGS.keys())
def test_a_cell_that_filled_the_memory_is_told_as_what_it_was(
    small_session: Session, filling: str, after: str
) -> None:
    source = f"x = [{{}}]; i = 0\ntry:\n  while True: {filling}\nexcept MemoryError: pass\n{after}"
    result = run_cell(small_session, source, fuel_max=10_000_000_000)
    assert result.outcome in FILLED, result.error
    assert result.session_state is SessionState.ALIVE
    free = "x = None\nfor n in list(globals()):\n if n[0] == 'v': del globals()[n]"
    assert run_cell(small_session, free).outcome in ("completed", "memory_exceeded")
    if run_cell(small_session, free).outcome == "completed":
        assert completed(small_session, "6 * 7").result == "42"


@pytest.mark.parametrize("smallest", [100_000, 1_000, 100, 1])
@pytest.mark.parametrize("after", AFTERWARDS.values(), ids=AFTERWARDS.keys())
def test_memory_filled_to_the_last_byte_is_no_violation(
    small_session: Session, smallest: int, after: str
) -> None:
    result = run_cell(small_session, _STAIRS % smallest + after, fuel_max=10_000_000_000)
    assert result.outcome in FILLED, result.error
    assert result.session_state is SessionState.ALIVE


def test_an_error_is_told_once_also_when_its_report_does_not_fit(small_session: Session) -> None:
    """The report behind it fails: two documents in one stream would be unreadable."""
    source = (
        "import rlm_repl\ndef full(): raise MemoryError\n"
        "rlm_repl._variables = full\nraise KeyError('the first')"
    )
    result = run_cell(small_session, source)
    assert result.outcome == "guest_exception"
    assert "the first" in str(result.error)


def test_an_error_that_cannot_be_told_is_the_end_of_the_memory(small_session: Session) -> None:
    source = "import rlm_repl\ndef full(value): raise MemoryError\nrlm_repl._document = full\n1/0"
    result = run_cell(small_session, source)
    assert (result.outcome, result.session_state) == ("memory_exceeded", "alive")

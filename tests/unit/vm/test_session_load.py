"""Inputs: what the host binds is what the guest sees, in every layout of a str, in one copy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import MemoryExceeded, PolicyError, UsageError
from rlm_wasm.protocol import text_layout as text
from rlm_wasm.protocol.text_layout import ASCII, LATIN_1, UCS_2, UCS_4, encoding_of
from rlm_wasm.vm.session import Session, drive
from tests.support.sandbox_facts import MIB, completed, run_cell

pytestmark = pytest.mark.guest

DESCRIBE = (
    "import hashlib, sys\n"
    "def describe(v):\n"
    "    raw = v if type(v) is bytes else v.encode('utf-8', 'surrogatepass')\n"
    "    return type(v).__name__, len(v), hashlib.sha256(raw).hexdigest()\n"
)


def described(value: str | bytes) -> str:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return repr((type(value).__name__, len(value), hashlib.sha256(raw).hexdigest()))


# From each class of PEP 393, its borders among them, and surrogates that no codec likes.
CHARS = (
    st.sampled_from("a\x00\x7f")
    | st.sampled_from("\x80\xe9\xff")
    | st.sampled_from("\u0100\u20ac\ud800\udbff\udc00\udfff\uffff")
    | st.sampled_from("\U00010000\U0001f600\U0010ffff")
)
TEXTS = st.text("ab\x00\x7f", max_size=40) | st.text(CHARS, max_size=40) | st.text(max_size=40)


@pytest.fixture
def loaded(make_session: Callable[..., Session]) -> Session:
    session = make_session()
    completed(session, DESCRIBE)
    return session


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=TEXTS | st.binary(max_size=40))
def test_every_text_and_every_bytes_arrive_as_they_are(loaded: Session, value: str | bytes) -> None:
    drive(loaded.load("v", value))
    assert completed(loaded, "describe(v)").result == described(value)
    # A literal is made by CPython itself: equality and hashing compare the layouts.
    same = completed(
        loaded, f"w = {value!r}\n(v == w, w == v, hash(v) == hash(w), {{w: 1}}.get(v), {{v: 2}}[w])"
    )
    assert same.result == "(True, True, True, 1, 2)"


@settings(max_examples=300, deadline=None)
@given(value=TEXTS)
def test_the_layout_is_the_smallest_that_holds_the_text(value: str) -> None:
    widest = max(map(ord, value), default=0)
    expected = next(e for e in (ASCII, LATIN_1, UCS_2, UCS_4) if widest <= e.max_char)
    assert encoding_of(value) is expected


@pytest.mark.parametrize("wide", ["\xe9", "\u20ac", "\ud800", "\U0001f600"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_texts_of_several_chunks_arrive_as_they_are(
    loaded: Session, monkeypatch: pytest.MonkeyPatch, wide: str, place: int
) -> None:
    """The one wide character is at the first, a border's, or the last place of the chunks."""
    monkeypatch.setattr(text, "CHUNK_UNITS", 1000)
    position = (0, 999, 1000, 2499)[place]
    value = "x" * position + wide + "y" * (2499 - position)
    drive(loaded.load("v", value))
    assert completed(loaded, "describe(v)").result == described(value)
    assert completed(loaded, f"v[{position}]").result == repr(wide)


@pytest.mark.parametrize("value", ["", b"", "a", "\xe9", b"\x00", "\x00"])
def test_small_values_arrive_as_they_are(loaded: Session, value: str | bytes) -> None:
    drive(loaded.load("v", value))
    assert completed(loaded, "v").result == repr(value)


def test_a_large_text_is_copied_once(make_session: Callable[..., Session]) -> None:
    session = make_session()
    before = session.memory_bytes
    value = "x" * (40 * MIB)
    drive(session.load("context", value))
    assert session.memory_bytes - before < 44 * MIB
    assert completed(session, "len(context), context.count('x')").result == f"({len(value)}, {len(value)})"


def test_an_input_is_the_cells_to_change(session: Session) -> None:
    drive(session.load("context", "one two three"))
    completed(session, "context = context.split()")
    assert completed(session, "context").result == "['one', 'two', 'three']"
    completed(session, "del context")
    assert run_cell(session, "context").outcome == "guest_exception"


def test_an_input_that_a_cell_drops_gives_its_memory_back(make_session: Callable[..., Session]) -> None:
    session = make_session(memory_bytes_max=160 * MIB)
    drive(session.load("context", "x" * (60 * MIB)))
    for _ in range(5):
        completed(session, "context = context.replace('x', 'y')", fuel_max=20_000_000_000)
    assert completed(session, "len(context)").result == str(60 * MIB)


def test_an_input_can_be_replaced_by_its_owner(session: Session) -> None:
    drive(session.load("context", "one"))
    drive(session.load("context", b"two"))
    assert completed(session, "context").result == "b'two'"


def test_a_value_over_the_cap_is_refused_by_its_size_in_the_guest(
    make_session: Callable[..., Session],
) -> None:
    session = make_session(context_bytes_max=1000)
    drive(session.load("a", "x" * 1000))
    for value in ("x" * 1001, b"x" * 1001, "\u20ac" * 501, "\U0001f600" * 251):
        with pytest.raises(UsageError, match="context_bytes_max is 1000"):
            drive(session.load("b", value))
    assert completed(session, "len(a)").result == "1000"


def test_no_room_is_memory_exceeded_and_the_session_lives(make_session: Callable[..., Session]) -> None:
    session = make_session(memory_bytes_max=64 * MIB)
    for value in ("x" * (60 * MIB), b"x" * (60 * MIB)):
        with pytest.raises(MemoryExceeded, match="memory_bytes_max"):
            drive(session.load("context", value))
    assert not session.lost
    drive(session.load("context", "small"))
    assert completed(session, "context").result == "'small'"


@pytest.mark.parametrize(
    "name", ["", "1a", "a b", "a.b", "a" * 257, "\u00e9" * 129, "\ud800", "x\x00", "x\n"]
)
def test_a_name_that_is_no_identifier_is_a_usage_error(session: Session, name: str) -> None:
    with pytest.raises(UsageError, match="not a variable name"):
        drive(session.load(name, "v"))
    assert completed(session, "1").result == "1"


def test_a_name_may_be_any_identifier(session: Session) -> None:
    drive(session.load("größe", "v"))
    assert completed(session, "größe").result == "'v'"


@pytest.mark.parametrize("value", [5, None, bytearray(b"x"), memoryview(b"x"), ["x"]])
def test_a_value_of_another_type_is_a_usage_error(session: Session, value: object) -> None:
    with pytest.raises(UsageError, match="give a str or bytes"):
        drive(session.load("v", value))  # type: ignore[arg-type]
    assert not session.lost


def test_a_cap_below_the_image_refuses_the_session(make_session: Callable[..., Session]) -> None:
    with pytest.raises(PolicyError, match="below the image"):
        make_session(memory_bytes_max=MIB)


@pytest.mark.threat("T-009")
def test_finalisers_that_run_while_an_input_is_bound_reach_no_import(session: Session) -> None:
    """Binding drops the old value: code of an earlier cell runs then, and the host is not there for it."""
    completed(
        session,
        "import _rlm\n"
        "class Evil:\n"
        "    def __del__(self): print('printed', flush=True); _rlm.call(b'{}')\n"
        "v = Evil()\n",
    )
    from rlm_wasm.errors import BoundaryViolation

    with pytest.raises(BoundaryViolation, match="outside a cell"):
        drive(session.load("v", "new"))
    assert session.lost


@pytest.mark.threat("T-009")
def test_a_set_context_that_never_ends_meets_the_limits_of_a_cell(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from rlm_wasm.errors import FuelExhausted
    from rlm_wasm.protocol import cell

    monkeypatch.setattr(cell, "_SETUP", replace(cell._SETUP, fuel_max=200_000_000))
    completed(
        session,
        "class Slow:\n def __del__(self):\n  while True: pass\nv = Slow()",
    )
    with pytest.raises(FuelExhausted):
        drive(session.load("v", "new"))
    assert session.lost

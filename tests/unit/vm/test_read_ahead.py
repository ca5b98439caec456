"""What an operation has of an input beyond what its guest asked for."""

from __future__ import annotations

from rlm_wasm.protocol.input_reads import WINDOW_BYTES_MAX, InputAsked, InputOp
from rlm_wasm.vm.read_ahead import ReadAhead


def read(offset: int, length: int, number: int = 1) -> InputAsked:
    return InputAsked(InputOp.READ, number, offset, length)


def fetch(ahead: ReadAhead, asked: InputAsked) -> int:
    """Ask as a guest does; return how much of it the host had to give, 0 for nothing."""
    data = bytes((asked.offset + place) % 251 for place in range(asked.length))
    if (found := ahead.take(asked)) is not None:
        assert found == data
        return 0
    wanted = ahead.wanted(asked)
    ahead.keep(wanted, bytes((wanted.offset + place) % 251 for place in range(wanted.length)))
    return wanted.length


def test_who_reads_on_is_given_twice_as_much_each_time_up_to_a_window() -> None:
    ahead = ReadAhead()
    given = [fetch(ahead, read(at, 65_536)) for at in range(0, 64 << 20, 65_536)]
    assert [each for each in given if each][:5] == [65_536, 131_072, 262_144, 524_288, 1 << 20]
    assert max(given) == WINDOW_BYTES_MAX
    assert sum(given) <= 72 << 20


def test_who_looks_here_and_there_is_given_what_is_asked() -> None:
    ahead = ReadAhead()
    assert [fetch(ahead, read(at, 100)) for at in (5_000, 100, 90_000, 700)] == [100] * 4


def test_the_same_place_of_another_input_is_another_place() -> None:
    ahead = ReadAhead()
    assert fetch(ahead, read(0, 100)) == 100
    assert fetch(ahead, read(0, 100, number=2)) == 100
    assert fetch(ahead, read(100, 100, number=1)) == 100


def test_what_is_only_partly_there_is_asked_for_whole() -> None:
    ahead = ReadAhead()
    fetch(ahead, read(0, 100))
    assert ahead.take(read(50, 100)) is None
    assert ahead.take(read(50, 50)) is not None

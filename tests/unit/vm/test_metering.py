"""Instructions of unbounded work are done in pieces, to the same effect; what cannot be is refused."""

from __future__ import annotations

import ctypes
import hashlib

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import ArtifactError
from rlm_wasm.protocol.native_form import METER
from rlm_wasm.vm.metering import (
    FUEL_PER_GROWN_BYTE,
    FUEL_PER_GROWTH,
    FUEL_PER_VAIN_GROWTH,
    FUNCTIONS,
    PIECE_BYTES,
    metered,
)

_PAGE = 65_536
_MEMORY = 8 * _PAGE
# As many types as make the index of one more than a byte.
_MODULE = f"""
(module
  {"".join(f"(type (func (param i64) {'(param f32)' * k}))" for k in range(100))}
  (import "host" "note" (func $note (param i32)))
  (memory (export "memory") 8 64)
  (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "others") (param i32) (result i64)
    (local $wide i64) (local $real f64)
    ;; constants and a table whose bytes look like the instructions that are replaced
    (block (block (block (br_table 0 1 2 (local.get 0)))))
    (drop (f64.const 0x1.00a00fc0fc0fcp+1)) (drop (f32.const 1)) (drop (i64.const 0xfc0afc0bfc0a))
    (drop (i32.const 0x400bfc)) (drop (select (result i32) (i32.const 1) (i32.const 2) (local.get 0)))
    (drop (i32.trunc_sat_f64_s (local.get $real)))
    (call $note (memory.size))
    (i64.const 7)))
"""


class _Guest:
    def __init__(self, module: bytes) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        self.store = wasmtime.Store(wasmtime.Engine(config))
        self.store.set_fuel(10**12)
        self.noted: list[int] = []
        note = wasmtime.Func(
            self.store,
            wasmtime.FuncType([wasmtime.ValType.i32()], []),
            lambda pages: self.noted.append(pages),
        )
        linked = wasmtime.Instance(self.store, wasmtime.Module(self.store.engine, module), [note])
        self.exports = linked.exports(self.store)

    def call(self, name: str, *arguments: int) -> int | None:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        result: int | None = function(self.store, *(ctypes.c_int32(value).value for value in arguments))
        return result

    def contents(self) -> bytearray:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return memory.read(self.store)

    def write(self, contents: bytes) -> None:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        memory.write(self.store, contents)


_PLAIN = bytes(wasmtime.wat2wasm(_MODULE))
_PATTERN = b"".join(k.to_bytes(4, "little") for k in range(_MEMORY // 4))
# Around the ends of pieces and of the memory, and beyond.
_EDGES = [
    0,
    1,
    _PAGE - 1,
    _PAGE,
    _PAGE + 1,
    3 * PIECE_BYTES + 5,
    _MEMORY - 1,
    _MEMORY,
    _MEMORY + 1,
    2**32 - 1,
]
_numbers = st.sampled_from(_EDGES) | st.integers(0, _MEMORY)


def _outcome(guest: _Guest, name: str, arguments: tuple[int, int, int]) -> tuple[object, bytes]:
    guest.write(_PATTERN)
    try:
        guest.call(name, *arguments)
    except wasmtime.Trap as trap:
        return trap.trap_code, bytes(guest.contents())
    return None, bytes(guest.contents())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["copy", "fill"]), _numbers, _numbers, _numbers)
def test_a_copy_or_fill_in_pieces_does_what_one_instruction_does(
    name: str, first: int, second: int, length: int
) -> None:
    """Also where they overlap, and where they would leave the memory: nothing is written then."""
    plain, ours = _Guest(_PLAIN), _Guest(metered(_PLAIN))
    arguments = (first, second, length)
    assert _outcome(ours, name, arguments) == _outcome(plain, name, arguments)


@pytest.mark.parametrize(
    "arguments", [(3, 0, 5 * PIECE_BYTES), (0, 3, 5 * PIECE_BYTES), (2**32 - 70_000, 0, 140_000)]
)
def test_pieces_that_overlap_are_copied_from_the_right_end(arguments: tuple[int, int, int]) -> None:
    """A copy upwards onto itself begins at its end, one downwards at its start; one that wraps traps."""
    assert _outcome(_Guest(metered(_PLAIN)), "copy", arguments) == _outcome(_Guest(_PLAIN), "copy", arguments)


def test_growing_costs_fuel_by_the_page_and_also_where_it_fails() -> None:
    """What the instruction returns is as it was; each call costs what it costs the host."""
    guest = _Guest(metered(_PLAIN))

    def cost(pages: int) -> tuple[int | None, int]:
        before = guest.store.get_fuel()
        return guest.call("grow", pages), before - guest.store.get_fuel()

    for pages, returned, bytes_grown in (
        (0, 8, 0),
        (2, 8, 2 * _PAGE),
        (100, -1, 0),
        (0, 10, 0),
        (54, 10, 54 * _PAGE),
    ):
        result, fuel = cost(pages)
        assert result == returned
        due = FUEL_PER_GROWTH + FUEL_PER_GROWN_BYTE * bytes_grown if bytes_grown else FUEL_PER_VAIN_GROWTH
        assert 0.95 * due <= fuel <= 1.05 * due, (pages, fuel, due)


def test_what_is_around_them_stays_as_it_was() -> None:
    """Constants that look like these instructions, tables of branches and imports are left alone."""
    guest = _Guest(metered(_PLAIN))
    assert [guest.call("others", k) for k in range(4)] == [7] * 4
    assert guest.noted == [8] * 4


def test_a_module_without_such_instructions_is_left_alone() -> None:
    """Not a byte is added where nothing is replaced."""
    module = bytes(wasmtime.wat2wasm('(module (func (export "f") (result i32) (i32.const 64)))'))
    assert metered(module) == module


@pytest.mark.parametrize(
    "body",
    [
        "(table.fill (i32.const 0) (ref.null func) (i32.const 9))",
        "(table.copy (i32.const 0) (i32.const 1) (i32.const 9))",
        "(drop (table.grow (ref.null func) (i32.const 9)))",
        "(memory.init $data (i32.const 0) (i32.const 0) (i32.const 1))",
        "(return_call $f)",
        "(drop (i32.atomic.load (i32.const 0)))",
        "(drop (i8x16.splat (i32.const 0)))",
    ],
)
@pytest.mark.threat("T-161")
def test_an_instruction_that_nothing_bounds_is_refused(body: str) -> None:
    """Of what a module may hold, only what is known to be bounded, or replaced, is compiled."""
    text = f'(module (memory 1) (table 10 funcref) (data $data "x") (func $f {body}))'
    with pytest.raises(ArtifactError, match="nothing bounds"):
        metered(bytes(wasmtime.wat2wasm(text)))


def test_a_truncated_body_is_refused() -> None:
    """A module that ends in the middle of an instruction is malformed, whatever is there."""
    body = b"\x00\xfc\x0b"
    module = b"\0asm\x01\0\0\0" + b"\x01\x04\x01\x60\x00\x00" + b"\x03\x02\x01\x00"
    module += bytes((10, len(body) + 2, 1, len(body))) + body
    with pytest.raises(ArtifactError, match="truncated"):
        metered(module)


def test_code_that_was_compiled_with_other_functions_is_another_file() -> None:
    """The host looks for native code without loading what makes it."""
    assert METER.split() == ["meter", "2", hashlib.sha256(FUNCTIONS.encode()).hexdigest()]

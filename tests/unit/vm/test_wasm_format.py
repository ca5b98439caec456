"""The reader of the binary format: what it says is what wasmtime says, and garbage is an error."""

from __future__ import annotations

import contextlib

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import ArtifactError
from rlm_wasm.vm.wasm_format import memory_pages_min, read_exports, read_imports, strip_data
from tests.support.wat_guest import PAGES, assemble

MODULE = bytes(
    wasmtime.wat2wasm("""
(module
  (import "a" "f" (func (param i32)))
  (import "a" "g" (global i32))
  (import "b" "t" (table 1 5 funcref))
  (memory (export "m") 3 7)
  (global (export "x") (mut i32) (i32.const -5))
  (func (export "h") (result i32) (i32.load (i32.const 65536)))
  (data (i32.const 8) "hello")
  (data (i32.const 65536) "\\01\\02\\03\\04")
)""")
)


def test_imports_and_exports_are_those_of_the_module() -> None:
    assert read_imports(MODULE) == [("a", "f", "func"), ("a", "g", "global"), ("b", "t", "table")]
    assert read_exports(MODULE) == [("m", "memory"), ("x", "global"), ("h", "func")]
    assert memory_pages_min(MODULE) == 3


def test_a_guests_imports_agree_with_wasmtimes_own_reading() -> None:
    module = wasmtime.Module(wasmtime.Engine(), assemble(""))
    assert [(i.module, i.name) for i in module.imports] == [i[:2] for i in read_imports(assemble(""))]
    assert [e.name for e in module.exports] == [name for name, _ in read_exports(assemble(""))]
    assert memory_pages_min(assemble("")) == PAGES


def test_stripping_takes_the_data_and_leaves_a_module_that_runs() -> None:
    code, segments = strip_data(
        assemble("(return (i32.load (i32.const 16)))", more='(data (i32.const 16) "\\02\\00\\00\\00")')
    )
    assert [(s.offset, s.data) for s in segments] == [(16, b"\x02\0\0\0")]
    assert b"\x02\0\0\0" not in code
    wasmtime.Module.validate(wasmtime.Engine(), code)
    assert strip_data(code) == (code, [])


def test_offsets_are_unsigned() -> None:
    _, segments = strip_data(MODULE)
    assert [s.offset for s in segments] == [8, 65_536]


@pytest.mark.parametrize(
    "text",
    [
        '(module (memory 1) (data "passive"))',
        '(module (import "a" "g" (global i32)) (memory 1) (data (global.get 0) "x"))',
    ],
)
def test_data_that_cannot_be_laid_out_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError):
        strip_data(bytes(wasmtime.wat2wasm(text)))


@pytest.mark.parametrize("text", ["(module)", "(module (memory 1) (memory 2))"])
def test_a_module_needs_exactly_one_memory(text: str) -> None:
    with pytest.raises(ArtifactError):
        memory_pages_min(bytes(wasmtime.wat2wasm(text)))


def _read_all(module: bytes) -> None:
    read_imports(module)
    read_exports(module)
    memory_pages_min(module)
    strip_data(module)


@settings(max_examples=300)
@given(position=st.integers(0, len(MODULE) - 1), value=st.integers(0, 255), end=st.integers(0, len(MODULE)))
def test_a_damaged_module_is_an_error_or_another_module(position: int, value: int, end: int) -> None:
    data = bytearray(MODULE)
    data[position] = value
    for damaged in (bytes(data), MODULE[:end], bytes(data)[:end]):
        with contextlib.suppress(ArtifactError):
            _read_all(damaged)


@given(data=st.binary(max_size=64))
def test_any_bytes_are_an_error_or_a_module(data: bytes) -> None:
    for candidate in (data, b"\0asm\x01\0\0\0" + data):
        with contextlib.suppress(ArtifactError):
            _read_all(candidate)

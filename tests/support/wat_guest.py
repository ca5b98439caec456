"""Guests that are not CPython: a few lines of WebAssembly text with the imports and exports of the real one.

`rlm_exec(source, length, flags)` runs the body a test gives; `rlm_str_new` and the rest are there to
be called. The memory has two pages: everything beyond 131,072 is outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import wasmtime

from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.compilation import compile_module
from rlm_wasm.vm.instance import Program
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import boundary_limits, session_limits

PAGES = 2
MEMORY_BYTES = PAGES * 65_536
# Where a body may put things; the inbox is below.
FREE = 8_192

_MODULE = """
(module
  (import "rlm" "call" (func $call_into (param i32 i32 i32 i32) (result i32)))
  (import "rlm" "take" (func $take (param i32 i32) (result i32)))
  (import "rlm" "emit" (func $emit (param i32 i32 i32) (result i32)))
  (import "rlm" "clock" (func $clock (param i32) (result i64)))
  (import "rlm" "entropy" (func $entropy (param i32 i32) (result i32)))
  (import "rlm" "sleep" (func $sleep (param i64) (result i32)))
  (import "rlm" "read" (func $read (param i32 i64 i32 i32) (result i32)))
  {more_imports}
  (memory (export "memory") {pages})
  (global (export "__stack_pointer") (mut i32) (i32.const 65536))
  (global $n (mut i32) (i32.const 0))
  {more}
  (func $call (param i32 i32) (result i32)
    (call $call_into (local.get 0) (local.get 1) (i32.const 0) (i32.const 0)))
  (func (export "rlm_exec") (param $source i32) (param $length i32) (param $flags i32) (result i32)
    (local $i i32) {body} (i32.const 0))
  (func (export "rlm_alloc") (param i32) (result i32) {alloc})
  (func (export "rlm_free") (param i32))
  (func (export "rlm_str_new") (param i32 i32) (result i32) {str_new})
  (func (export "rlm_bytes_new") (param i32) (result i32) {str_new})
  (func (export "rlm_commit") (param i32) (result i32) {commit})
)
"""


def assemble(
    body: str = "",
    *,
    alloc: str = "(i32.const 8192)",
    str_new: str = "(i32.const 8192)",
    commit: str = "(i32.const 0)",
    more: str = "",
    more_imports: str = "",
) -> bytes:
    """Return the module's bytes."""
    text = _MODULE.format(
        body=body,
        alloc=alloc,
        str_new=str_new,
        commit=commit,
        more=more,
        more_imports=more_imports,
        pages=PAGES,
    )
    return bytes(wasmtime.wat2wasm(text))


def facts(**over: Any) -> GuestFacts:
    """Return facts as the build would write them for such a module."""
    values: dict[str, Any] = {
        "format": 1,
        "recipe": "test",
        "cpython": "none",
        "wasmtime": "",
        "raw_sha256": "",
        "code_sha256": "",
        "image_sha256": "",
        "image_bytes": MEMORY_BYTES,
        "image_mac": "",
        "stack_pointer": 65_536,
        "inbox": 0,
        "inbox_bytes": 4_096,
        "seed": 4_096,
        "exit_status": 4_128,
        "interrupt_reason": 4_132,
        "signal_tripped": 4_136,
        "any_tripped": 4_140,
        "eval_breaker": 4_144,
        "eval_breaker_bit": 2,
        "progress": 4_148,
        "files_limits": 4_152,
        "imports": (),
        "exports": (),
    }
    return GuestFacts(**(values | over))


@contextmanager
def program_of(body: str = "", **parts: str) -> Iterator[Program]:
    """Compile a module for the length of the block. -1 is where the real shim keeps its exit status."""
    image = bytearray(MEMORY_BYTES)
    image[4_128:4_132] = b"\xff\xff\xff\xff"
    # And how far it came with a cell, which these modules do not say by themselves.
    image[4_148] = 2
    program = Program(compile_module(assemble(body, **parts)), image)
    try:
        yield program
    finally:
        program.close()


@contextmanager
def session_of(
    body: str = "",
    *,
    boundary: dict[str, int] | None = None,
    entropy: Callable[[int], bytes] = bytes,
    limits: dict[str, Any] | None = None,
    **parts: str,
) -> Iterator[Session]:
    """Make one session of such a guest for the length of the block."""
    with program_of(body, **parts) as program:
        made = Session(
            program,
            facts(),
            session_limits(**{"memory_bytes_max": 4 * MEMORY_BYTES, **(limits or {})}),
            boundary_limits(**(boundary or {})),
            entropy,
        )
        try:
            yield made
        finally:
            made.close()

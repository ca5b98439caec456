"""The module's boundary is exactly what the manifest lists."""

from __future__ import annotations

import pytest
import wasmtime

from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.boundary_check import check_boundary
from rlm_wasm.guestbuild.manifest import Boundary

BOUNDARY = Boundary("rlm", ("call", "take"), ("memory", "rlm_exec"))
CALL = '(import "rlm" "call" (func (param i32 i32) (result i32)))'
TAKE = '(import "rlm" "take" (func (param i32 i32) (result i32)))'
EXPORTS = '(memory (export "memory") 1) (func (export "rlm_exec"))'


def module(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def test_a_module_with_exactly_the_listed_names_passes() -> None:
    check_boundary(module(TAKE + CALL + EXPORTS), BOUNDARY)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CALL + EXPORTS, "does not import rlm.take (func)"),
        (
            CALL + TAKE + '(import "rlm" "more" (func))' + EXPORTS,
            "imports rlm.more (func), which is not listed",
        ),
        (
            CALL + TAKE + '(import "wasi_snapshot_preview1" "fd_write" (func))' + EXPORTS,
            "imports wasi_snapshot_preview1.fd_write (func), which is not listed",
        ),
        (
            CALL + TAKE + '(import "env" "call" (func))' + EXPORTS,
            "imports env.call (func), which is not listed",
        ),
        (
            CALL + '(import "rlm" "take" (global i32))' + EXPORTS,
            "imports rlm.take (global), which is not listed",
        ),
        (CALL + TAKE + TAKE + EXPORTS, "imports rlm.take (func) twice"),
        (CALL + TAKE + '(memory (export "memory") 1)', "does not export rlm_exec"),
        (CALL + TAKE + EXPORTS + '(func (export "_start"))', "exports _start, which is not listed"),
    ],
)
def test_every_difference_is_an_error_that_names_it(text: str, problem: str) -> None:
    with pytest.raises(GuestBuildError) as caught:
        check_boundary(module(text), BOUNDARY)
    assert f"  it {problem}" in caught.value.message.splitlines()


def test_something_that_is_not_wasm_is_an_error() -> None:
    with pytest.raises(ArtifactError):
        check_boundary(b"\x7fELF", BOUNDARY)

"""A training has no host, ends with a profile read within bounds, and fails the build if a program fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from rlm_wasm.errors import ArtifactError, BoundaryViolation
from rlm_wasm.guestbuild.training_run import train_guest

_MODULE = """
(module
  (import "rlm" "clock" (func $clock (param i32) (result i64)))
  (memory (export "memory") 1)
  (global (export "__stack_pointer") (mut i32) (i32.const 0))
  (data (i32.const 16) "{place}")
  (data (i32.const 64) "a profile")
  (func (export "_initialize"))
  (func (export "rlm_train") {train})
  (func (export "rlm_profile") (result i32) (i32.const 16)))
"""
# Address 64, 9 bytes.
_PLACE = r"\40\00\00\00\09\00\00\00"


def train(tmp_path: Path, body: str, place: str = _PLACE) -> bytes:
    raw = tmp_path / "raw.wasm"
    raw.write_bytes(wasmtime.wat2wasm(_MODULE.format(train=body, place=place)))
    return train_guest(raw)


def test_the_profile_is_what_the_module_points_at(tmp_path: Path) -> None:
    assert train(tmp_path, "(i32.store8 (i32.const 64) (i32.const 65))") == b"A profile"


def test_a_program_that_fails_is_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="rlm_train failed"):
        train(tmp_path, "unreachable")


def test_a_training_that_asks_for_the_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="called the host while it had none"):
        train(tmp_path, "(drop (call $clock (i32.const 0)))")


@pytest.mark.parametrize("place", [r"\40\00\00\00\c1\ff\00\00", r"\ff\ff\ff\ff\09\00\00\00"])
def test_a_profile_outside_memory_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(BoundaryViolation, match="outside guest memory"):
        train(tmp_path, "", place)

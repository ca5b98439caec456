"""What a failed system call is called: the machine's shortage, or our bug."""

from __future__ import annotations

import errno
import os

import pytest

from rlm_wasm.errors import HostExhausted, InternalError
from rlm_wasm.system.os_errors import is_shortage, wrap_os_error
from tests.support.descriptors import descriptors_left


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_process_without_descriptors_is_short_of_them(left: int) -> None:
    with descriptors_left(left):
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(left)]
        with pytest.raises(OSError, match="Too many open files") as failed:
            os.open("/dev/null", os.O_RDONLY)
        for fd in opened:
            os.close(fd)
    assert is_shortage(failed.value)
    error = wrap_os_error(failed.value, "no more")
    assert type(error) is HostExhausted
    assert error.message == "no more: Too many open files"
    assert error.__cause__ is None


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "no"), OSError("no number"), ValueError("x")])
def test_anything_else_is_our_bug_and_keeps_its_cause(error: Exception) -> None:
    assert not is_shortage(error)
    found = wrap_os_error(error, "it failed")
    assert type(found) is InternalError
    assert found.message.startswith(f"it failed: {type(error).__name__}: ")
    assert found.__cause__ is error

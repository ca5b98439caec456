"""The one reader and writer: a byte is inside or refused."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import BoundaryViolation
from rlm_wasm.vm.linear_unsafe import LinearMemory
from rlm_wasm.vm.memory_unsafe import GuestMemory

SIZE = 4_096
I32 = st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 5) | st.integers(SIZE - 5, SIZE + 5)


@pytest.fixture(scope="module")
def buffer() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(bytes(range(256)) * (SIZE // 256), SIZE)


@pytest.fixture(scope="module")
def memory(buffer: ctypes.Array[ctypes.c_char]) -> GuestMemory:
    return GuestMemory(LinearMemory(ctypes.addressof(buffer), SIZE, SIZE, SIZE))


@given(pointer=I32, length=I32, cap=st.integers(0, 2 * SIZE))
def test_a_read_is_what_lies_there_or_a_violation(
    memory: GuestMemory, buffer: ctypes.Array[ctypes.c_char], pointer: int, length: int, cap: int
) -> None:
    start, count = pointer % 2**32, length % 2**32
    if count <= cap and start + count <= SIZE:
        assert memory.read(pointer, length, length_max=cap) == buffer.raw[start : start + count]
    else:
        with pytest.raises(BoundaryViolation):
            memory.read(pointer, length, length_max=cap)


@given(pointer=I32, data=st.binary(max_size=16))
def test_a_write_changes_its_bytes_and_no_others(
    memory: GuestMemory, buffer: ctypes.Array[ctypes.c_char], pointer: int, data: bytes
) -> None:
    before = buffer.raw
    start = pointer % 2**32
    if start + len(data) <= SIZE:
        memory.write(pointer, data)
        assert buffer.raw == before[:start] + data + before[start + len(data) :]
    else:
        with pytest.raises(BoundaryViolation):
            memory.write(pointer, data)
        assert buffer.raw == before


def test_a_closed_memory_refuses_everything() -> None:
    linear = LinearMemory(0, SIZE, SIZE, SIZE)
    linear.closed = True
    memory = GuestMemory(linear)
    with pytest.raises(BoundaryViolation):
        memory.read(0, 0, length_max=0)
    with pytest.raises(BoundaryViolation):
        memory.write(0, b"")

"""The answers to what a guest asks of an input: parts of it, where something begins, how often it is there.

Each answer is one bounded piece of work, so that a guest that goes through all of an input can be stopped
between any two. It is done in pieces that hold the interpreter for about a millisecond each.
"""

from __future__ import annotations

from typing import Final

from rlm_wasm.host.held_inputs import BytesInMemory, HeldInputs, InputSource, TextInMemory
from rlm_wasm.host.input_file import InputChanged, InputFile
from rlm_wasm.protocol.input_reads import (
    CHANGED,
    FAILED,
    MISSING,
    PAGE_BYTES,
    PART_BYTES_MAX,
    InputAsked,
    InputOp,
    InputPart,
    InputWindow,
    encode_counts,
    encode_found,
    encode_size,
)

_PIECE_BYTES: Final = 1 << 20
# Bytes that go on with a character of UTF-8.
_CONTINUATION: Final = bytes(range(0x80, 0xC0))


def answer(inputs: HeldInputs, asked: InputAsked, into: InputWindow | None = None) -> InputPart:
    """Answer what a guest asks; what is wrong with the input is part of the answer.

    A part that is read goes `into` a window, if there is one. Without one it is no longer than a call reads.
    """
    source = inputs.get(asked.number)
    if source is None:
        return InputPart(status=MISSING)
    try:
        if into is not None and asked.op is InputOp.READ:
            return into.part(_filled(source, asked, into))
        return InputPart(_answered(source, asked))
    except InputChanged:
        return InputPart(status=CHANGED)
    except OSError:
        return InputPart(status=FAILED)


def is_at_hand(inputs: HeldInputs, asked: InputAsked) -> bool:
    """Whether an answer takes no longer than a copy, so that no thread has to be asked for it."""
    source = inputs.get(asked.number)
    if isinstance(source, BytesInMemory | TextInMemory):
        short = asked.op is InputOp.READ and asked.length <= PART_BYTES_MAX
        return source.is_counted and (short or asked.op is InputOp.SIZE)
    return source is None or asked.op is InputOp.SIZE


def _answered(source: InputSource, asked: InputAsked) -> bytes:
    match asked.op:
        case InputOp.READ:
            length = min(asked.length, PART_BYTES_MAX, source.size - asked.offset)
            buffer = bytearray(max(0, length))
            return bytes(memoryview(buffer)[: source.read_into(asked.offset, buffer)])
        case InputOp.SIZE:
            return encode_size(source.size)
        case InputOp.CHARACTERS:
            return encode_counts(_characters(source, asked))
        case InputOp.FIND:
            return encode_found(*_find(source, asked))
        case InputOp.COUNT:
            return encode_found(*_count(source, asked))


def _filled(source: InputSource, asked: InputAsked, into: InputWindow) -> int:
    """Fill a window; return with how much."""
    length = max(0, min(asked.length, source.size - asked.offset))
    if isinstance(source, InputFile):
        return source.read_into(asked.offset, into.view(length))  # which the kernel writes to
    buffer, done = memoryview(bytearray(min(length, _PIECE_BYTES))), 0
    while done < length:
        count = source.read_into(asked.offset + done, buffer[: length - done])
        if not count:
            break
        into.put(done, buffer[:count])
        done += count
    return done


def _end(source: InputSource, asked: InputAsked) -> int:
    return min(asked.offset + asked.length, source.size)


def _characters(source: InputSource, asked: InputAsked) -> list[int]:
    counts, buffer = [], bytearray(PAGE_BYTES)
    for offset in range(asked.offset, asked.offset + asked.length, PAGE_BYTES):
        count = source.read_into(offset, buffer)
        page = buffer if count == PAGE_BYTES else buffer[:count]
        counts.append(count if page.isascii() else len(page.translate(None, _CONTINUATION)))
    return counts


def _find(source: InputSource, asked: InputAsked) -> tuple[int, int]:
    """Return where the needle begins first, or -1, and how far was looked."""
    end, needle = _end(source, asked), asked.needle
    # What begins in a piece may end in the next one.
    buffer = bytearray(_PIECE_BYTES + len(needle) - 1)
    for offset in range(asked.offset, end, _PIECE_BYTES):
        limit = min(_PIECE_BYTES, end - offset) + len(needle) - 1
        there = source.read_into(offset, memoryview(buffer)[:limit])
        found = buffer.find(needle, 0, there)
        if found >= 0:
            return offset + found, offset + found + 1
    return -1, end


def _count(source: InputSource, asked: InputAsked) -> tuple[int, int]:
    """Return how often the needle is there, no two overlapping, and where to go on."""
    end, needle = _end(source, asked), asked.needle
    buffer = bytearray(_PIECE_BYTES + len(needle) - 1)
    total, at = 0, asked.offset
    while at < end:
        piece = min(_PIECE_BYTES, end - at)
        there = source.read_into(at, memoryview(buffer)[: piece + len(needle) - 1])
        count = buffer.count(needle, 0, there)
        total += count
        at += _counted_to(buffer, needle, piece, there, count)
    return total, max(at, end) if asked.length else end


def _counted_to(buffer: bytearray, needle: bytes, piece: int, there: int, count: int) -> int:
    """Return where counting from the left goes on: at the piece's end, or where what crosses it ends."""
    if there <= piece or buffer.count(needle, 0, piece) == count:
        return piece
    # The shortest part of the buffer that holds as many ends there. Only forwards: to look for the last place
    # takes bytearray as long as all places times the needle.
    low, high = piece + 1, there
    while low < high:
        middle = (low + high) // 2
        if buffer.count(needle, 0, middle) == count:
            high = middle
        else:
            low = middle + 1
    return low

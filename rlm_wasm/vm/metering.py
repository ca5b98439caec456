"""Instructions that do as much work as they are asked to, made to take turns: a module is rewritten so
before it is compiled.

Fuel stops a guest between two instructions. One `memory.fill` may take a second, though, and `memory.grow`
makes the host map and the kernel clear as many pages as it names, for the fuel of an addition. So each is
replaced by a call of a function of ours, which does it in pieces and pays for it: between two pieces fuel can
run out or end the slice. What else is unbounded (tables, passive segments) no guest of ours has: it is
refused.

This holds whatever the module does: it is the host that rewrites, and code cannot be changed once compiled.

Format: WebAssembly Core Specification 2.0, chapter 5.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import wasmtime

from rlm_wasm.errors import ArtifactError
from rlm_wasm.vm.wasm_format import Reader, read_imports, sections

# What one instruction copies or fills at most: a few microseconds.
PIECE_BYTES: Final = 65_536
# What a growth costs, in fuel: about what the callback takes, and for each byte what it takes to clear it,
# at the least (0.1 ns, and twenty times that where the machine itself lacks memory). One in vain does not get
# to the callback, and a guest at the end of its memory tries again and again.
FUEL_PER_GROWTH: Final = 100_000
FUEL_PER_VAIN_GROWTH: Final = 4_096
FUEL_PER_GROWN_BYTE: Final = 2
# A constant that is dropped costs its fuel, and no code is made of it.
_BURNT_AT_ONCE: Final = 4_096
_PAGE_BYTES: Final = 65_536
_BURNT_PER_PAGE: Final = FUEL_PER_GROWN_BYTE * _PAGE_BYTES // _BURNT_AT_ONCE

# Whatever changes here or below changes what code is compiled to: `native_form.METER` has to, too.
FUNCTIONS: Final = f"""
(module
  (memory 1)
  (func $copy (param $to i32) (param $from i32) (param $left i32) (local $piece i32)
    (if (i32.le_u (local.get $left) (i32.const {PIECE_BYTES}))
      (then (memory.copy (local.get $to) (local.get $from) (local.get $left)) (return)))
    (if (i64.gt_u ;; out of bounds: it has to trap before anything is copied
          (i64.add (i64.extend_i32_u (local.get $left)) (i64.extend_i32_u
            (select (local.get $to) (local.get $from) (i32.gt_u (local.get $to) (local.get $from)))))
          (i64.mul (i64.extend_i32_u (memory.size)) (i64.const {_PAGE_BYTES})))
      (then (memory.copy (local.get $to) (local.get $from) (local.get $left)) (unreachable)))
    (if (i32.gt_u (local.get $to) (local.get $from))
      (then ;; they may overlap: from the end
        (loop $next
          (local.set $piece (select (local.get $left) (i32.const {PIECE_BYTES})
            (i32.lt_u (local.get $left) (i32.const {PIECE_BYTES}))))
          (local.set $left (i32.sub (local.get $left) (local.get $piece)))
          (memory.copy (i32.add (local.get $to) (local.get $left))
            (i32.add (local.get $from) (local.get $left)) (local.get $piece))
          (br_if $next (local.get $left))))
      (else
        (loop $next
          (local.set $piece (select (local.get $left) (i32.const {PIECE_BYTES})
            (i32.lt_u (local.get $left) (i32.const {PIECE_BYTES}))))
          (memory.copy (local.get $to) (local.get $from) (local.get $piece))
          (local.set $to (i32.add (local.get $to) (local.get $piece)))
          (local.set $from (i32.add (local.get $from) (local.get $piece)))
          (br_if $next (local.tee $left (i32.sub (local.get $left) (local.get $piece))))))))
  (func $fill (param $to i32) (param $value i32) (param $left i32) (local $piece i32)
    (if (i32.le_u (local.get $left) (i32.const {PIECE_BYTES}))
      (then (memory.fill (local.get $to) (local.get $value) (local.get $left)) (return)))
    (if (i64.gt_u (i64.add (i64.extend_i32_u (local.get $left)) (i64.extend_i32_u (local.get $to)))
          (i64.mul (i64.extend_i32_u (memory.size)) (i64.const {_PAGE_BYTES})))
      (then (memory.fill (local.get $to) (local.get $value) (local.get $left)) (unreachable)))
    (loop $next
      (local.set $piece (select (local.get $left) (i32.const {PIECE_BYTES})
        (i32.lt_u (local.get $left) (i32.const {PIECE_BYTES}))))
      (memory.fill (local.get $to) (local.get $value) (local.get $piece))
      (local.set $to (i32.add (local.get $to) (local.get $piece)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (local.get $piece))))))
  (func $grow (param $pages i32) (result i32) (local $before i32) (local $due i32)
    (local.set $due (i32.const {FUEL_PER_VAIN_GROWTH // _BURNT_AT_ONCE}))
    (if (i32.eqz (local.get $pages))
      (then (local.set $before (memory.size)))
      (else
        (if (i32.ne (local.tee $before (memory.grow (local.get $pages))) (i32.const -1))
          (then (local.set $due (i32.add (i32.const {FUEL_PER_GROWTH // _BURNT_AT_ONCE})
            (i32.mul (local.get $pages) (i32.const {_BURNT_PER_PAGE}))))))))
    (loop $next
      {"(drop (i32.const 0))" * _BURNT_AT_ONCE}
      (br_if $next (local.tee $due (i32.sub (local.get $due) (i32.const 1)))))
    (local.get $before)))
"""  # noqa: S608 - no SQL

_TYPE, _FUNCTION, _CODE = 1, 3, 10
_CALL: Final = 0x10
_FUNCTION_TYPE: Final = 0x60
# In the order of the functions above.
_COPY, _FILL, _GROW = range(3)
_NUMBER: Final = rb"[\x80-\xff]*+[\x00-\x7f]"
# Instructions in a row that do a bounded amount of work; so many, because the engine of `re` remembers each.
# Whatever is not among them is looked at by hand.
_BOUNDED: Final = re.compile(
    rb"(?:[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1]"
    rb"|[\x02-\x04\x0c\x0d\x10\x20-\x26\x3f\x41\x42\xd0\xd2]" + _NUMBER + rb"|[\x11\x28-\x3e]" + _NUMBER * 2 +
    rb"|\x43.{4}|\x44.{8}|\xfc[\x00-\x07]){1,4096}",
    re.DOTALL,
)  # fmt: skip


def _unsigned(value: int) -> bytes:
    """Return a number the way the format has it (LEB128)."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


def _signed(value: int) -> bytes:
    """Return a number that is not negative where the format has a signed one."""
    digits = bytearray()
    while value > 0x3F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


# i32.const, i32.gt_u.
_IS_LONG: Final = b"\x41" + _signed(PIECE_BYTES) + b"\x4b"


def metered(module: bytes) -> bytes:
    """Return the module with every instruction of unbounded work replaced, or as it is if it has none.

    Raises:
        ArtifactError: the module is malformed, or has an instruction that is neither bounded nor replaced.
    """
    parts = {section: payload for section, _, _, payload in sections(module)}
    if _CODE not in parts:
        return module
    types, bodies, ours = _types(parts[_TYPE]), _bodies(parts[_CODE]), _ours()
    kinds = _numbers(parts[_FUNCTION])
    first = sum(kind == "func" for _, _, kind in read_imports(module)) + len(kinds)
    rewritten = [
        _rewritten(body, types[kind], first, len(types)) for kind, body in zip(kinds, bodies, strict=True)
    ]
    if rewritten == bodies:
        return module
    added = [len(types) + kind for kind in _numbers(ours[_FUNCTION])]
    parts[_TYPE] = _joined(parts[_TYPE], ours[_TYPE])
    parts[_FUNCTION] = _joined(parts[_FUNCTION], _unsigned(len(added)) + b"".join(map(_unsigned, added)))
    rewritten += _bodies(ours[_CODE])
    parts[_CODE] = _unsigned(len(rewritten)) + b"".join(_unsigned(len(body)) + body for body in rewritten)
    whole = bytearray(module[:8])
    for section, _, _, payload in sections(module):
        changed = parts[section] if section in (_TYPE, _FUNCTION, _CODE) else payload
        whole += bytes((section,)) + _unsigned(len(changed)) + changed
    return bytes(whole)


def _rewritten(body: bytes, parameters: int, first: int, kind: int) -> bytes:
    """Return the body of a function with so many parameters, with its unbounded instructions replaced.

    Our functions have the indices from `first` on, and that of those with three numbers is the type `kind`.
    """
    reader = Reader(body)
    groups = reader.unsigned()
    declared = reader.at
    length = parameters
    for _ in range(groups):  # its local variables
        length += reader.unsigned()
        reader.byte()
    begin = kept = reader.at
    done = bytearray()
    while not reader.done:
        if bounded := _BOUNDED.match(body, reader.at):
            reader.at = bounded.end()
            continue
        start = reader.at
        ours = _other(reader)
        if ours is None:
            continue
        done += body[kept:start]
        kept = reader.at
        call = bytes((_CALL,)) + _unsigned(first + ours)
        if ours == _GROW:
            done += call
        else:  # most are short, and a call would take longer than they do
            done += b"\x22%b\x20%b%b\x04%b%b\x05%b\x0b" % (  # tee, get, is it long, if, else, end
                _unsigned(length), _unsigned(length), _IS_LONG, _signed(kind), call, body[start:kept]
            )  # fmt: skip
    if not done:
        return body
    # One more local variable, an i32.
    locals_ = _unsigned(groups + 1) + body[declared:begin] + b"\x01\x7f"
    return bytes(locals_ + done + body[kept:])


def _other(reader: Reader) -> int | None:
    """Read an instruction that is not plainly bounded; return which of our functions it becomes, if any."""
    match reader.byte():
        case 0x0E:  # br_table
            for _ in range(reader.unsigned() + 1):
                reader.unsigned()
            return None
        case 0x1C:  # select with types
            for _ in range(reader.unsigned()):
                reader.byte()
            return None
        case 0x40:  # memory.grow
            reader.unsigned()
            return _GROW
        case 0xFC:
            match reader.unsigned():
                case 10:  # memory.copy
                    reader.unsigned()
                    reader.unsigned()
                    return _COPY
                case 11:  # memory.fill
                    reader.unsigned()
                    return _FILL
                case other:
                    raise ArtifactError(
                        f"the wasm module has an instruction that nothing bounds: 0xfc {other}"
                    )
        case other:
            raise ArtifactError(f"the wasm module has an instruction that nothing bounds: {other:#x}")


@cache
def _ours() -> dict[int, bytes]:
    return {section: payload for section, _, _, payload in sections(bytes(wasmtime.wat2wasm(FUNCTIONS)))}


def _numbers(vector: bytes) -> list[int]:
    reader = Reader(vector)
    return [reader.unsigned() for _ in range(reader.unsigned())]


def _types(vector: bytes) -> list[int]:
    """Return how many parameters each type of function has."""
    reader = Reader(vector)
    found = []
    for _ in range(reader.unsigned()):
        if reader.byte() != _FUNCTION_TYPE:
            raise ArtifactError("the wasm module has a type that is none of a function")
        parameters = reader.unsigned()
        reader.take(parameters)
        reader.take(reader.unsigned())
        found.append(parameters)
    return found


def _bodies(code: bytes) -> list[bytes]:
    reader = Reader(code)
    return [reader.take(reader.unsigned()) for _ in range(reader.unsigned())]


def _joined(one: bytes, other: bytes) -> bytes:
    """Return the vector of the items of both."""
    first, second = Reader(one), Reader(other)
    count = first.unsigned() + second.unsigned()
    return _unsigned(count) + one[first.at :] + other[second.at :]

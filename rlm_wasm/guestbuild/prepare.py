"""The making of the base image: run initialisation once over the linked module, keep the memory.

No Wizer: the data segments are laid out in an image, `_initialize` and `rlm_init` run over it, and
linear memory is written out. The result is the same for the same module on every machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.compile_cache import native_code, wasmtime_version
from rlm_wasm.artifacts.files import write_private
from rlm_wasm.artifacts.guest import PAGE_BYTES, image_mac, save_facts
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.hostless import call_without_host
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.compilation import compile_native
from rlm_wasm.vm.instance import Instance, Program
from rlm_wasm.vm.native_code import load_native
from rlm_wasm.vm.wasm_format import memory_pages_min, read_exports, read_imports, strip_data

_INIT_FUEL: Final = 400_000_000_000
_MEMORY_BYTES_MAX: Final = 1 << 30
_FACTS: Final = struct.Struct("<12I")
_FACTS_VERSION: Final = 4


def prepare_guest(
    raw_path: Path, folder: Path, *, recipe: str, cpython: str, packages: tuple[str, ...] = ()
) -> GuestFacts:
    """Write code.wasm, base.img, raw.wasm and guest.json into `folder` from the linked module.

    Raises:
        ArtifactError: the module is not of the expected form, or its initialisation failed.
    """
    raw = raw_path.read_bytes()
    code, image = lay_out(raw)
    program = Program(load_native(native_code(code, compile_native)), image)
    try:
        dumped, addresses, stack_pointer = _initialise(program)
    finally:
        program.close()
    version, inbox, inbox_bytes, seed, exit_status, reason, signal, anything, breaker, *others = addresses
    bit, progress, files = others
    words = max(exit_status, reason, signal, anything, breaker, progress, files + 4) + 4
    if version != _FACTS_VERSION or max(inbox + inbox_bytes, seed + 32, words) > len(dumped):
        raise ArtifactError(f"{raw_path}: rlm_facts does not describe a guest of ours")
    facts = GuestFacts(
        format=artifact.FORMAT,
        recipe=recipe,
        cpython=cpython,
        wasmtime=wasmtime_version(),
        raw_sha256=hashlib.sha256(raw).hexdigest(),
        code_sha256=hashlib.sha256(code).hexdigest(),
        image_sha256=hashlib.sha256(dumped).hexdigest(),
        image_bytes=len(dumped),
        image_mac=image_mac(dumped),
        stack_pointer=stack_pointer,
        inbox=inbox,
        inbox_bytes=inbox_bytes,
        seed=seed,
        exit_status=exit_status,
        interrupt_reason=reason,
        signal_tripped=signal,
        any_tripped=anything,
        eval_breaker=breaker,
        eval_breaker_bit=bit,
        progress=progress,
        files_limits=files,
        imports=tuple(f"{module}.{name}" for module, name, _ in read_imports(raw)),
        exports=tuple(name for name, _ in read_exports(raw)),
        packages=packages,
    )
    write_private(folder / artifact.RAW_FILE, [raw])
    write_private(folder / artifact.CODE_FILE, [code])
    write_private(folder / artifact.IMAGE_FILE, [dumped])
    save_facts(folder, facts)
    return facts


def lay_out(raw: bytes) -> tuple[bytes, bytearray]:
    """Return a linked module's code, and linear memory as its data segments would make it.

    Raises:
        ArtifactError: the module is not of the expected form.
    """
    code, segments = strip_data(raw)
    image = bytearray(memory_pages_min(raw) * PAGE_BYTES)
    for segment in segments:
        if segment.offset + len(segment.data) > len(image):
            raise ArtifactError("a data segment of the module leaves the memory")
        image[segment.offset : segment.offset + len(segment.data)] = segment.data
    return code, image


def _initialise(program: Program) -> tuple[bytes, tuple[int, ...], int]:
    instance = Instance(program, memory_bytes_max=_MEMORY_BYTES_MAX)
    try:
        instance.set_fuel(_INIT_FUEL)
        stack_before = instance.stack_pointer()
        for name in ("_initialize", "rlm_init"):
            call_without_host(instance, name, 0)
        pointer = call_without_host(instance, "rlm_facts", 1)
        addresses = _FACTS.unpack(instance.memory.read(pointer, _FACTS.size, length_max=_FACTS.size))
        instance.verify_memory()
        stack_pointer = instance.stack_pointer()
        if stack_pointer != stack_before:
            raise ArtifactError("the guest's stack is not empty after initialisation")
        size = instance.memory.size
        return ctypes.string_at(instance.memory.base, size), addresses, stack_pointer
    finally:
        instance.close()

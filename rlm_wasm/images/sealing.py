"""Packages are put into a guest, which imports some of them, and its memory is the image.

Two guests do it: one compiles the modules and is thrown away with all that compiling leaves in its memory,
the other is given what it compiled. Both run as while the base image is made: without a host that they could
call, with fuel and memory that end. The code of the packages runs in the second and nowhere else.
"""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.errors import ArtifactError, GuestBuildError, HostExhausted
from rlm_wasm.guestbuild.hostless import call_without_host
from rlm_wasm.protocol.guest_facts import GuestFacts
from rlm_wasm.vm.compilation import compile_native
from rlm_wasm.vm.instance import Instance, Program
from rlm_wasm.vm.native_code import load_native

# Some minutes: what the import of all packages of an image may take, and what they may hold.
_FUEL: Final = 2_000_000_000_000
_MEMORY_BYTES_MAX: Final = 1 << 30
_COMPILED_BYTES_MAX: Final = 64 << 20
# Where a compiled file lies, and how long it is.
_WHERE: Final = struct.Struct("<2I")


def seal_packages(guest: Guest, files: Mapping[str, bytes], preload: Sequence[str]) -> bytes:
    """Return the memory of `guest` with `files` below /packages, and the modules of `preload` imported.

    The same for the same guest, files and names.

    Raises:
        GuestBuildError: a module cannot be imported, or the packages are too large.
    """
    program = Program(load_native(native_code(guest.read_code(), compile_native)), guest.read_image())
    try:
        with _maker(program, guest.facts) as maker:
            compiled = maker.compile(files)
        with _maker(program, guest.facts) as maker:
            return maker.seal({**compiled, **files}, preload)
    except HostExhausted as error:
        raise GuestBuildError(f"the packages do not fit this machine's memory: {error}") from error
    finally:
        program.close()


@contextmanager
def _maker(program: Program, facts: GuestFacts) -> Iterator[_Maker]:
    instance = Instance(program, memory_bytes_max=_MEMORY_BYTES_MAX)
    try:
        instance.set_fuel(_FUEL)
        yield _Maker(instance, facts)
    finally:
        instance.close()


class _Maker:
    """One guest over the image that packages are put on."""

    def __init__(self, instance: Instance, facts: GuestFacts) -> None:
        self._instance, self._facts = instance, facts

    def compile(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return a compiled file for each module; none for what is not Python of the guest's version."""
        tag = "".join(self._facts.cpython.split(".")[:2])
        found: dict[str, bytes] = {}
        for name, data in sorted(files.items()):
            folder, _, file = name.rpartition("/")
            if file.endswith(".py"):
                self._fill(data)
                if self._call("rlm_compile", name) is None:
                    path = f"{folder}/__pycache__/{file.removesuffix('.py')}.cpython-{tag}.pyc"
                    found[path.removeprefix("/")] = self._compiled()
        return found

    def seal(self, files: Mapping[str, bytes], preload: Sequence[str]) -> bytes:
        """Return the guest's memory with the files in it, and the modules imported."""
        stack_before = self._instance.stack_pointer()
        for name, data in sorted(files.items()):
            self._fill(data)
            self._require(self._call("rlm_add_file", name))
        self._fill(json.dumps(list(preload)).encode())
        self._require(self._call("rlm_seal"))
        self._instance.verify_memory()
        if self._instance.stack_pointer() != stack_before:
            raise ArtifactError("the guest's stack is not empty after the packages were added")
        return ctypes.string_at(self._instance.memory.base, self._instance.memory.size)

    def _fill(self, data: bytes) -> None:
        pointer = call_without_host(self._instance, "rlm_bytes_new", 1, (len(data),))
        if pointer == 0:
            raise GuestBuildError(f"the packages are too large: no room for {len(data)} bytes more")
        self._instance.memory.write(pointer, data)

    def _call(self, function: str, name: str | None = None) -> str | None:
        """Call one of the functions for packages; return what it says is wrong."""
        arguments: tuple[int, ...] = ()
        if name is not None:
            path = name.encode()
            self._instance.memory.write(self._facts.inbox, path)
            arguments = (len(path),)
        length = call_without_host(self._instance, function, 1, arguments)
        return self._inbox(length).decode("utf-8", "replace") if length else None

    def _require(self, problem: str | None) -> None:
        if problem is not None:
            raise GuestBuildError(f"the packages do not work in the guest: {problem}")

    def _compiled(self) -> bytes:
        pointer, length = _WHERE.unpack(self._inbox(_WHERE.size))
        return self._instance.memory.read(pointer, length, length_max=_COMPILED_BYTES_MAX)

    def _inbox(self, length: int) -> bytes:
        return self._instance.memory.read(self._facts.inbox, length, length_max=self._facts.inbox_bytes)

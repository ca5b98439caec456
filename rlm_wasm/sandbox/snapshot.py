"""A session's memory between two cells: what it wrote, over what it started from.

Between cells the wasm stack is empty, so memory is the whole state: functions, objects, imports, a
half-read generator. A snapshot keeps only the pages written (`layers`, oldest first, over the
guest's base image). To restore, they are written into a fresh mapping; to fork many times, they
are laid out once in a memory file of their own and every fork is one mapping of it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from rlm_wasm.errors import InternalError
from rlm_wasm.image.memfd import MemoryFile
from rlm_wasm.sandbox.dirty_unsafe import PAGE, written_ranges
from rlm_wasm.sandbox.instance import Instance, Program
from rlm_wasm.sandbox.linear_unsafe import ImageSource


@dataclass(frozen=True)
class Layer:
    """Pages written: (offset, contents), in order, without overlaps."""

    runs: tuple[tuple[int, bytes], ...]

    @cached_property
    def bytes_held(self) -> int:
        """How much memory the layer takes."""
        return sum(len(data) for _, data in self.runs)


class Snapshot:
    """The state of one session at one moment. Immutable; sessions made from it do not see each other."""

    def __init__(
        self,
        program: Program,
        origin: Snapshot | None,
        layer: Layer,
        size: int,
        virtual_ns: int,
        *,
        seeded: bool = True,
        below: tuple[Layer, ...] = (),
    ) -> None:
        self.program: Final = program
        self.origin: Final = origin
        self.layer: Final = layer
        self.size: Final = size
        self.virtual_ns: Final = virtual_ns
        self.seeded: Final = seeded
        # The layers of what this was forked from, where that itself is no longer held.
        self._below: Final = below
        self._laid_out: ImageSource | None = None

    def as_origin(self) -> Snapshot:
        """Return the same state as the beginning of another session, without what led to it.

        A fork of a fork would else hold the laid-out memory of every generation before it.
        """
        origin = Snapshot(
            self.program,
            None,
            Layer(()),
            self.size,
            self.virtual_ns,
            seeded=self.seeded,
            below=self.layers,
        )
        origin._laid_out = self.lay_out()
        return origin

    @property
    def bytes_held(self) -> int:
        """What this snapshot alone holds: the pages written since its origin."""
        return self.layer.bytes_held

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer over the base image, oldest first."""
        return (*(self.origin.layers if self.origin else self._below), self.layer)

    def flattened(self) -> tuple[tuple[int, bytes], ...]:
        """Return one layer that says what all of them say: runs in order, without overlaps."""
        if len(self.layers) == 1:
            return self.layer.runs
        pages: dict[int, memoryview] = {}
        for layer in self.layers:
            for offset, data in layer.runs:
                view = memoryview(data)
                for start in range(0, len(view), PAGE):
                    pages[offset + start] = view[start : start + PAGE]
        runs: list[tuple[int, list[memoryview]]] = []
        end = -1
        for offset in sorted(pages):
            if offset != end:
                runs.append((offset, []))
            runs[-1][1].append(pages[offset])
            end = offset + PAGE
        return tuple((offset, b"".join(parts)) for offset, parts in runs)

    def restore(self, *, memory_bytes_max: int) -> Instance:
        """Return an instance with this memory, written over a mapping of what the session came from."""
        below = self.program.image if self.origin is None else self.origin.lay_out()
        source = ImageSource(below.fd, below.file_bytes, self.size, below.owner)
        instance = Instance(self.program, memory_bytes_max=memory_bytes_max, image=source)
        for offset, data in self.layer.runs:
            instance.memory.write(offset, data)
        return instance

    def fork(self, *, memory_bytes_max: int) -> Instance:
        """Return an instance over a mapping of this memory; the first fork lays it out."""
        return Instance(self.program, memory_bytes_max=memory_bytes_max, image=self.lay_out())

    def lay_out(self) -> ImageSource:
        """Return this memory as a sealed memory file, made on first use."""
        if self._laid_out is None:
            below = self.program.image if self.origin is None else self.origin.lay_out()
            file = MemoryFile.over(below.fd, self.size, self.layer.runs)
            self._laid_out = ImageSource(file.fd, self.size, self.size, file)
        return self._laid_out


def take(
    instance: Instance,
    program: Program,
    origin: Snapshot | None,
    *,
    stack: int,
    virtual_ns: int,
    seeded: bool,
    bytes_max: int,
) -> Snapshot | None:
    """Return a snapshot of an instance that is between two calls; None if it takes over `bytes_max`.

    Raises:
        InternalError: its stack is not empty.
    """
    if instance.stack_pointer() != stack:
        raise InternalError("a snapshot of a guest whose stack is not empty")
    instance.verify_memory()
    base, size = instance.memory.base, instance.memory.size
    ranges = written_ranges(base, size)
    if sum(length for _, length in ranges) > bytes_max:
        return None
    runs = tuple((offset, ctypes.string_at(base + offset, length)) for offset, length in ranges)
    return Snapshot(program, origin, Layer(runs), size, virtual_ns, seeded=seeded)

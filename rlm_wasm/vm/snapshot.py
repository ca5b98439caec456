"""A session's memory between two cells: what it wrote, over what it started from.

Between cells the wasm stack is empty, so memory is the whole state: functions, objects, imports, a
half-read generator. A snapshot keeps only the pages written (`layers`, oldest first, over the
guest's base image). To restore, they are written into a fresh mapping; to fork many times, they
are laid out once in a memory file of their own and every fork is one mapping of it.

Pages that were written are copied by each snapshot after that. Where they are many they are moved, once, into
a memory file that the session maps in their place: from then on they are what it is compared with, and
shared by all its snapshots. All of it is done in steps, between other sessions' turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Final

from rlm_wasm.errors import InternalError
from rlm_wasm.system.memfd import MemoryFile
from rlm_wasm.vm.consolidation import (
    CONSOLIDATED_FROM_BYTES,
    is_scattered,
    laid_over,
    stretches_to_move,
    total,
    united,
)
from rlm_wasm.vm.dirty_pages_unsafe import PAGE, Range, way_in_use, written_ranges
from rlm_wasm.vm.instance import Instance, Program
from rlm_wasm.vm.linear_unsafe import ImageSource, Overlay
from rlm_wasm.vm.upkeep import STEP_BYTES, Steps

# What the kernel is asked about at once, and what it frees at once where it maps a file over it.
_LOOKED_AT_BYTES: Final = 256 << 20
_ZEROS: Final = bytes(PAGE)
_MAPPED_AT_ONCE: Final = 16 << 20


@dataclass(frozen=True)
class Layer:
    """Pages written: (offset, contents), in order, without overlaps."""

    runs: tuple[tuple[int, bytes], ...]

    @cached_property
    def bytes_held(self) -> int:
        """How much memory the layer takes."""
        return sum(len(data) for _, data in self.runs)


@dataclass(frozen=True)
class FileLayer:
    """Pages that were moved into memory files."""

    overlays: tuple[Overlay, ...]

    @property
    def runs(self) -> Iterator[tuple[int, bytes]]:
        """The pages, read as they are wanted: (offset, contents), in pieces of at most a step."""
        for overlay in sorted(self.overlays, key=lambda overlay: overlay.offset):
            for at in range(overlay.offset, overlay.end, STEP_BYTES):
                length = min(STEP_BYTES, overlay.end - at)
                yield at, os.pread(overlay.fd, length, overlay.base + at)

    @property
    def bytes_held(self) -> int:
        """How much memory the pages take, without what lies hidden in the files."""
        return sum(overlay.length for overlay in self.overlays)


class Ground:
    """What the pages of one session are compared with: what it came from, and what was moved since."""

    def __init__(self, origin: MemorySnapshot | None) -> None:
        self.origin = origin
        self.overlays: tuple[Overlay, ...] = ()

    @property
    def bytes_held(self) -> int:
        """What was moved and is still to be seen."""
        return FileLayer(self.overlays).bytes_held


class MemorySnapshot:
    """The state of one session at one moment. Immutable; sessions made from it do not see each other."""

    def __init__(
        self,
        program: Program,
        origin: MemorySnapshot | None,
        layer: Layer,
        size: int,
        virtual_ns: int,
        *,
        seeded: bool = True,
        overlays: tuple[Overlay, ...] = (),
        below: tuple[Layer | FileLayer, ...] = (),
    ) -> None:
        self.program: Final = program
        self.origin: Final = origin
        self.overlays: Final = overlays
        self.layer: Final = layer
        self.size: Final = size
        self.virtual_ns: Final = virtual_ns
        self.seeded: Final = seeded
        # The layers of what this was forked from, where that itself is no longer held.
        self._below: Final = below
        self._laid_out: ImageSource | None = None

    def as_origin(self) -> MemorySnapshot:
        """Return the same state as the beginning of another session, without what led to it.

        A fork of a fork would else hold the laid-out memory of every generation before it.
        """
        origin = self._without_past(self.layers)
        origin._laid_out = self.lay_out()
        return origin

    def rebased(self) -> MemorySnapshot:
        """Return the same state as the beginning of what its own session does next.

        All of it has been moved into files: those are mapped as they are.
        """
        if self.layer.runs:
            raise InternalError("a session was rebased before all of its pages were moved")
        below = self._below_source()
        over = below.over
        for overlay in self.overlays:
            over = laid_over(over, overlay)
        past = self.origin.layers if self.origin else self._below
        # What an earlier one moved is in `over`, as far as it is still to be seen.
        past = tuple(layer for layer in past if layer != FileLayer(below.over))
        origin = self._without_past((*past, FileLayer(over)))
        origin._laid_out = replace(below, size=self.size, over=over)
        return origin

    def _without_past(self, layers: tuple[Layer | FileLayer, ...]) -> MemorySnapshot:
        return MemorySnapshot(
            self.program, None, Layer(()), self.size, self.virtual_ns, seeded=self.seeded, below=layers
        )

    def _below_source(self) -> ImageSource:
        return self.program.image if self.origin is None else self.origin.lay_out()

    @property
    def bytes_held(self) -> int:
        """What this snapshot alone holds: the pages written since its origin."""
        return self.layer.bytes_held + FileLayer(self.overlays).bytes_held

    @property
    def layers(self) -> tuple[Layer | FileLayer, ...]:
        """Every layer over the base image, oldest first."""
        below = self.origin.layers if self.origin else self._below
        moved = (FileLayer(self.overlays),) if self.overlays else ()
        return (*below, *moved, self.layer)

    def flattened(self) -> tuple[tuple[int, bytes], ...]:
        """Return one layer that says what all of them say: runs in order, without overlaps.

        A page that is as in the base image is in none: that it was written, or only made ready to be, is not
        part of the state.
        """
        pages: dict[int, memoryview] = {}
        for layer in self.layers:
            for offset, data in layer.runs:
                view = memoryview(data)
                for start in range(0, len(view), PAGE):
                    pages[offset + start] = view[start : start + PAGE]
        image = self.program.image
        runs: list[tuple[int, list[memoryview]]] = []
        end = -1
        for offset in sorted(pages):
            at_first = os.pread(image.fd, PAGE, offset) if offset < image.file_bytes else _ZEROS
            if pages[offset].tobytes() == at_first:
                continue
            if offset != end:
                runs.append((offset, []))
            runs[-1][1].append(pages[offset])
            end = offset + PAGE
        return tuple((offset, b"".join(parts)) for offset, parts in runs)

    def restore(self, *, memory_bytes_max: int) -> Instance:
        """Return an instance with this memory, written over a mapping of what the session came from."""
        below = self._below_source()
        source = replace(below, size=self.size, over=(*below.over, *self.overlays))
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
            below = self._below_source()
            moved = (FileLayer(below.over), FileLayer(self.overlays), self.layer)
            runs = chain.from_iterable(layer.runs for layer in moved)
            file = MemoryFile.over(below, self.size, runs)
            self._laid_out = ImageSource(file.fd, self.size, self.size, file, base=file.base)
        return self._laid_out


def take(
    instance: Instance,
    program: Program,
    ground: Ground,
    *,
    stack: int,
    virtual_ns: int,
    seeded: bool,
    bytes_max: int,
) -> Steps[MemorySnapshot | None]:
    """Return a snapshot of an instance that is between two calls; None if it takes over `bytes_max`.

    Where much was written since the last one, it is moved into a memory file first. Dropped between two
    steps, it leaves the session as it was.

    Raises:
        InternalError: its stack is not empty.
        HostExhausted: the kernel does not map what was moved; the instance must not be used again.
    """
    if instance.stack_pointer() != stack:
        raise InternalError("a snapshot of a guest whose stack is not empty")
    instance.verify_memory()
    size = instance.memory.size
    written = yield from _written(instance)
    held = total(written)
    # Where every page counts as written, always, moving them would be in vain.
    if (
        CONSOLIDATED_FROM_BYTES < held <= bytes_max - ground.bytes_held
        and way_in_use() != "everything"
        and (stretches := stretches_to_move(written))
    ):
        yield from _move(instance, ground, written, stretches)
        written = yield from _written(instance)
        held = total(written)
    if held + ground.bytes_held > bytes_max:
        return None
    runs: list[tuple[int, bytes]] = []
    for pieces in [written] if held <= STEP_BYTES else _in_steps(written):
        if runs:
            yield
        runs += instance.memory.read_all(pieces)
    overlays = ground.overlays
    return MemorySnapshot(
        program, ground.origin, Layer(tuple(runs)), size, virtual_ns, seeded=seeded, overlays=overlays
    )


def _in_steps(written: Iterable[Range]) -> Iterator[list[Range]]:
    """Yield the same stretches in lists of at most about a step's bytes."""
    pieces: list[Range] = []
    left = STEP_BYTES
    for offset, length in written:
        for at in range(offset, offset + length, STEP_BYTES):
            piece = min(STEP_BYTES, offset + length - at)
            pieces.append((at, piece))
            left -= piece
            if left <= 0:
                yield pieces
                pieces, left = [], STEP_BYTES
    yield pieces


def move_everything(instance: Instance, ground: Ground) -> Steps[bool]:
    """Move every page that was written since the session's origin into a memory file; False if there is
    no room for one."""
    written = yield from _written(instance)
    stretches = stretches_to_move(written, everything=True)
    below = () if ground.origin is None else ground.origin.lay_out().over
    return not stretches or (yield from _move(instance, ground, written, stretches, below))


def _written(instance: Instance) -> Steps[list[Range]]:
    base, size = instance.memory.base, instance.memory.size
    found = written_ranges(base, min(_LOOKED_AT_BYTES, size))
    for start in range(_LOOKED_AT_BYTES, size, _LOOKED_AT_BYTES):
        yield
        for offset, length in written_ranges(base + start, min(_LOOKED_AT_BYTES, size - start)):
            if found and sum(found[-1]) == start + offset:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((start + offset, length))
    return found


def _move(
    instance: Instance,
    ground: Ground,
    written: list[Range],
    stretches: list[Range],
    below: tuple[Overlay, ...] = (),
) -> Steps[bool]:
    """Write `stretches` into a new file and map them from there: they count as unwritten then.

    `below` are overlays of the origin that may go, too. False if the machine has no descriptor or no room
    for the file: nothing has changed then.
    """
    overlays = (*below, *ground.overlays)
    files = {overlay.owner for overlay in overlays if isinstance(overlay.owner, MemoryFile)}
    if is_scattered(overlays, sum(file.bytes_held for file in files)):
        moved = sorted((overlay.offset, overlay.length) for overlay in overlays)
        stretches = stretches_to_move(united(written, moved), everything=True)
    memory = instance.memory
    try:
        with closing(MemoryFile.draft("rlm-layer", memory.size)) as draft:
            for offset, length in stretches:
                for at in range(offset, offset + length, STEP_BYTES):
                    draft.write(memory.view(at, min(STEP_BYTES, offset + length - at)), at)
                    yield
            file = draft.seal()
    except OSError:
        return False
    for offset, length in stretches:
        for at in range(offset, offset + length, _MAPPED_AT_ONCE):
            overlay = Overlay(file.fd, at, min(_MAPPED_AT_ONCE, offset + length - at), file, file.base)
            memory.lay_over(overlay)
            ground.overlays = laid_over(ground.overlays, overlay)
            yield
    return True

"""The cost of snapshots: taking one, going back to it, forking from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rlm_wasm.bench.measurement import Measurement, median_ns
from rlm_wasm.errors import InternalError
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.snapshot import MemorySnapshot

_MEGABYTE: Final = "data = b'x' * 1_000_000"
_CONTEXT_CHARS: Final = 50_000_000


class ImageBench:
    """Measurements of snapshots, under the policy's limits."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._policy = policy
        self._scale = 10 if quick else 1

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        return {
            "fork_us": self._fork,
            "snapshot_1mb_us": self._snapshot,
            "restore_us": self._restore,
            "checkpoint_us": self._checkpoint,
        }

    def _session(self, start: MemorySnapshot | None = None) -> Session:
        loaded = load_guest_program()
        return Session(
            loaded.program,
            loaded.facts,
            replace(self._policy.session_limits(), context_bytes_max=1 << 30),
            self._policy.boundary,
            os.urandom,
            start=start,
        )

    def _run(self, session: Session, source: str) -> bytes | None:
        end = drive(session.run(Cell(source, self._policy.cell)))
        if end.fault is not None or end.raised:
            raise InternalError(f"a benchmark's cell failed: {end.fault or end.error!r}")
        return end.result

    def _fork(self) -> Measurement:
        n = 2_000 // self._scale
        parent = self._session()
        self._run(parent, f"{_MEGABYTE}; kept = 42")
        image = _taken(parent)
        first_ns, _ = median_ns(lambda: self._session(image).close(), 1)
        made: list[Session] = []
        middle, tail = median_ns(
            lambda: made.append(self._session(image)), n, clean_up=lambda: made.pop().close()
        )
        child = self._session(image)
        if self._run(child, "kept, len(data)") != b"(42, 1000000)":
            raise InternalError("a fork does not have its parent's variables")
        child.close()
        parent.close()
        note = f"p99 {tail / 1e3:.0f} us; the first, which lays the image out, {first_ns / 1e6:.0f} ms"
        return Measurement("fork_us", middle / 1e3, "us", n, note)

    def _snapshot(self) -> Measurement:
        n = 300 // self._scale
        session = self._session()
        self._run(session, _MEGABYTE)
        taken: list[MemorySnapshot] = []
        middle, tail = median_ns(lambda: taken.append(_taken(session)), n, clean_up=taken.pop)
        held = _taken(session).bytes_held
        session.close()
        return Measurement(
            "snapshot_1mb_us", middle / 1e3, "us", n, f"p99 {tail / 1e3:.0f} us, {held // 1024} KiB of pages"
        )

    def _restore(self) -> Measurement:
        n = 300 // self._scale
        session = self._session()
        self._run(session, _MEGABYTE)
        image = _taken(session)
        middle, tail = median_ns(lambda: session.restore(image), n)
        session.close()
        return Measurement(
            "restore_us",
            middle / 1e3,
            "us",
            n,
            f"p99 {tail / 1e3:.0f} us, {image.bytes_held // 1024} KiB written back",
        )

    def _checkpoint(self) -> Measurement:
        """What a run pays before each cell: a snapshot over an origin with the inputs in it."""
        n = 300 // self._scale
        session = self._session()
        drive(session.load("context", "x" * _CONTEXT_CHARS))
        drive(session.rebase())
        self._run(session, "parts = [context[i : i + 100] for i in range(0, 50_000, 100)]; len(parts)")
        limit = self._policy.session_limits().checkpoint_bytes_max
        kept: list[MemorySnapshot | None] = []
        middle, tail = median_ns(
            lambda: kept.append(drive(session.snapshot(bytes_max=limit))), n, clean_up=kept.clear
        )
        held = _taken(session).bytes_held
        session.close()
        note = f"p99 {tail / 1e3:.0f} us, {held // 1024} KiB of pages over a context of 50 MB"
        return Measurement("checkpoint_us", middle / 1e3, "us", n, note)


def _taken(session: Session) -> MemorySnapshot:
    snapshot = drive(session.snapshot())
    if snapshot is None:
        raise InternalError("a snapshot without a limit was refused")
    return snapshot

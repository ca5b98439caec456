"""Runs CPython's tests in sessions of the guest: each module in a fork of one that has the package `test`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from rlm_wasm.conformance.outcomes import CRASH, FAIL, SKIP, ModuleVerdict, Verdict
from rlm_wasm.conformance.tests_of_cpython import TestFiles
from rlm_wasm.errors import BoundaryViolation, GuestBuildError, InternalError
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.guest_error import decode_guest_error
from rlm_wasm.vm.drive import drive
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.steps import CellEnd

# A test that ends its guest is left out of another try; a module that does so more often is given up.
_TRIES_MAX: Final = 12


class ConformanceRun:
    """The package `test`, laid out once. Close it, or use it as a context manager."""

    def __init__(
        self, loaded: LoadedGuest, program: Path, files: TestFiles, session: SessionLimits,
        boundary: BoundaryLimits, cell: CellLimits,
    ) -> None:  # fmt: skip
        self._loaded = loaded
        self._boundary = boundary
        self._cell = cell
        self._limits = replace(session, context_bytes_max=max(session.context_bytes_max, len(files.package)))
        self._base: Session | None = self._session(None)
        try:
            drive(self._base.load("package", files.package))
            end = self._run(self._base, program.read_text(encoding="utf-8"))
            if end.raised or end.fault is not None:
                raise GuestBuildError(f"the tests cannot be laid out: {said(end)}")
            drive(self._base.rebase())
            start = drive(self._base.snapshot())
            if start is None:
                raise InternalError("the laid out tests are larger than the guest")
            self._start: MemorySnapshot = start
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None

    def __enter__(self) -> ConformanceRun:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def module(self, name: str) -> ModuleVerdict:
        """Run the tests of one module; what ends the guest is noted, and the rest run without it."""
        found = ModuleVerdict(name)
        for _ in range(_TRIES_MAX):
            ended = self._try(name, found)
            if ended is None:
                return found
            test, outcome = ended
            if test is None or test in found.tests:
                found.whole = outcome
                return found
            found.tests[test] = outcome
        found.whole = Verdict(CRASH, f"given up after {_TRIES_MAX} tries")
        return found

    def _try(self, name: str, found: ModuleVerdict) -> tuple[str | None, Verdict] | None:
        """Run what has no outcome yet; return what ended the guest, if anything did."""
        session = self._session(self._start)
        try:
            end = self._run(session, f"run_module({name!r}, {sorted(found.tests)!r})")
        finally:
            session.close()
        found.fuel += end.fuel_used
        begun: str | None = None
        for words in outcome_lines(end.stdout):
            match words:
                case ["begin", str(test)]:
                    begun = test
                case ["end", str(test), str(outcome), str(reason)]:
                    found.tests[test] = Verdict(outcome, reason)
                    begun = None
                case ["module", str(outcome), str(reason)]:
                    if outcome in (FAIL, SKIP):
                        found.whole = Verdict(outcome, reason)
        if end.raised or end.fault is not None:
            return begun, Verdict(CRASH, said(end))
        return None

    def _session(self, start: MemorySnapshot | None) -> Session:
        return Session(
            self._loaded.program, self._loaded.facts, self._limits, self._boundary, os.urandom,
            start=start,
        )  # fmt: skip

    def _run(self, session: Session, source: str) -> CellEnd:
        return drive(session.run(Cell(source, self._cell)), lambda frame: b'{"status":"refused"}')


def outcome_lines(output: bytes) -> Iterator[object]:
    """Yield what the guest told, line by line, without what is no JSON."""
    for line in output.splitlines():
        try:
            # Lone surrogates are legal in JSON, and nowhere else.
            yield json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            continue


def said(end: CellEnd) -> str:
    """Return what ended a cell, as one line."""
    if end.fault is not None:
        return f"{type(end.fault).__name__}: {end.fault.message}"
    try:
        told = decode_guest_error(end.error or b"")
    except BoundaryViolation:
        return "an exception that cannot be read"
    return f"{told.type_name}: {told.message}"[:500]

"""The worker's half of the translation between socket messages and the session scheduler's commands."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rlm_wasm.errors import GuestError, HostExhausted, InternalError
from rlm_wasm.ids import SessionId
from rlm_wasm.jail.adopted_guest import adopted_guest
from rlm_wasm.protocol import commands as c
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.protocol.snapshot_runs import read_runs, write_runs
from rlm_wasm.protocol.text_layout import Encoding, LaidOut
from rlm_wasm.system.memfd import MemoryFile
from rlm_wasm.vm.entropy import session_entropy
from rlm_wasm.vm.snapshot import Layer, MemorySnapshot

# Snapshots a worker keeps ready to fork, oldest use out first; a fork of another one lays it out again.
IMAGES_KEPT_MAX: Final = 4


class KeptSnapshots:
    """The snapshots that a worker process has laid out."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, MemorySnapshot] = OrderedDict()

    def get(self, message: m.OpenSession, file: MemoryFile | None) -> MemorySnapshot:
        """Return the snapshot that a session starts from. Raises ArtifactError if its file is none."""
        kept = self._kept.pop(message.image, None)
        if kept is None:
            if file is None:
                raise InternalError("a snapshot came without its file")
            runs = read_runs(file.fd, message.image_runs, message.image_size)
            kept = MemorySnapshot(
                adopted_guest().program, None, Layer(runs), message.image_size, message.image_virtual_ns
            )
        self._kept[message.image] = kept
        while len(self._kept) > IMAGES_KEPT_MAX:
            self._kept.popitem(last=False)
        return kept


def open_command(
    message: m.OpenSession, sink: Callable[[c.Report], None], images: KeptSnapshots, file: MemoryFile | None
) -> c.Open:
    """Return the command that makes a session. Raises ArtifactError if its image is none."""
    start = images.get(message, file) if message.image else None
    entropy = session_entropy(message.limits, message.session)
    return c.Open(SessionId(message.session), message.limits, message.boundary, entropy, sink, start)


def load_command(message: m.LoadValue, file: MemoryFile | None) -> c.Load:
    """Return the command that binds an input."""
    encoding = Encoding("", message.bytes_per_unit, message.max_char)
    data = message.data
    if data is not None:
        kept = data  # for the type checker, which forgets in a closure what was tested
        value = LaidOut(message.is_text, message.units, encoding, lambda at, n: kept[at : at + n])
    elif file is not None:
        value = LaidOut.in_file(message.is_text, message.units, encoding, file)
    else:
        raise InternalError("a value came without its file")
    if message.is_json:
        value = replace(value, is_json=True)
    return c.Load(SessionId(message.session), message.name, value, message.held)


def command_of(message: m.ToWorker) -> c.Command:
    """Return the command that a message says. An input and a new session have functions of their own."""
    match message:
        case m.RespondTo(session=session, response=response):  # the most frequent by far
            return c.AnswerRequest(SessionId(session), response)
        case m.RunCell():
            return c.StartCell(SessionId(message.session), message.cell, message.checkpoint_bytes_max)
        case m.RefuelCell(session=session, fuel=fuel):
            return c.Refuel(SessionId(session), fuel)
        case m.RebaseSession(session=session):
            return c.Rebase(SessionId(session))
        case m.SnapshotSession(session=session):
            return c.TakeSnapshot(SessionId(session))
        case m.InterruptCell(session=session):
            return c.InterruptOperation(SessionId(session))
        case m.StopOperation(session=session, error=report):
            error = m.decode_error(report)
            if not isinstance(error, GuestError):
                raise InternalError("an operation is told to end with no guest's error")
            return c.Stop(SessionId(session), error)
        case m.CloseSession(session=session):
            return c.Close(SessionId(session))
    raise InternalError(f"{type(message).__name__} is no command of a session")


def report_of(session: int, operation: int, report: c.Report, into: MemoryFile | None = None) -> m.FromWorker:
    """Return the message for a report; an image is written into the blank file that was lent for it."""
    if isinstance(report, c.Requested):
        return m.GuestRequest(session, operation, report.frame)
    if isinstance(report, c.InputWanted):
        asked = report.asked
        return m.InputRequest(
            session, operation, asked.op, asked.number, asked.offset, asked.length, asked.needle
        )
    if isinstance(report, c.FuelNeeded):
        return m.FuelLow(session, operation)
    if isinstance(report, c.Wrote):
        return m.CellOutput(session, operation, report.chunks)
    if report.error is not None:
        return m.OperationDone(session, operation, error=m.encode_error(report.error))
    if report.result is not None:
        return m.OperationDone(session, operation, result=report.result)
    if report.snapshot is not None:
        return m.OperationDone(session, operation, image=_image(report.snapshot, into))
    return m.OperationDone(session, operation)


def _image(snapshot: SessionSnapshot, into: MemoryFile | None) -> m.ImageReport:
    if into is None:
        raise HostExhausted("the worker has no descriptor left for a file")
    runs = snapshot.flattened()
    write_runs(runs, into)
    return m.ImageReport(snapshot.size, snapshot.virtual_ns, len(runs))

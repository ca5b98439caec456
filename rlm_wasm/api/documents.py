"""`DocumentConverter`: documents as texts, each made in a guest session of its own that has nothing else.

The guest has the image `data`, the bytes of one document and nothing of the run, and stands behind what the
policy puts around every guest. It can give a wrong text; its memory, fuel, time and what it may say are
bounded.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self

import anyio

from rlm_wasm.api.background_loop import BackgroundLoop
from rlm_wasm.api.live_output import Output
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.document_text import DocumentKind
from rlm_wasm.errors import (
    ArtifactError,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestException,
    InputError,
    InputNotConverted,
    MemoryExceeded,
    UsageError,
    WorkerLost,
)
from rlm_wasm.inputs import documents
from rlm_wasm.inputs.documents import ConvertedDocument, OnConverting
from rlm_wasm.inputs.file_input import BYTES_KEY
from rlm_wasm.inputs.open_file import shown
from rlm_wasm.limits import DOCUMENT_OUTPUT_BYTES_MAX, DOCUMENT_TEXT_BYTES_MAX
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult
from rlm_wasm.values import Value, decode_text, decode_value

IMAGE: Final = "data"
_FOLDER: Final = "converters"
# What each kind's cell is made of, in this order.
_OFFICE: Final = ("told.py", "office.py")
_CELLS: Final = {
    DocumentKind.PDF: ("told.py", "pdf.py"),
    DocumentKind.DOCX: (*_OFFICE, "docx.py"),
    DocumentKind.XLSX: ("told.py", "xlsx.py"),
    DocumentKind.PPTX: (*_OFFICE, "pptx.py"),
}
_FUEL_KEY: Final = "inputs.document_fuel_max"
_WALL_KEY: Final = "inputs.document_wall_ms_max"
_MEMORY_KEY: Final = "inputs.document_memory_bytes_max"
# What a conversion says of its document is a word, or two numbers; of more nothing is made.
_TOLD_BYTES_MAX: Final = 1_000
_TELL_TEXT: Final = '__import__("rlm_values").tell(text)'
_DONE: Final = re.compile(r"^([0-9]{1,7}) ([0-9]{1,7})$", re.MULTILINE)


def converter_policy(policy: Policy) -> Policy:
    """Return what the guest that converts may have: the isolation of `policy`, and limits of its own."""
    limits = policy.input_limits()
    memory = min(limits.document_memory_bytes_max, policy.workers.memory_bytes_max)
    fuel, wall_ms = limits.document_fuel_max, limits.document_wall_ms_max
    return policy.replace(
        sandbox={
            "image": IMAGE,
            "memory_bytes_max": memory,
            "context_bytes_max": min(limits.document_bytes_max, memory),
            "whole_context_chars_max": 0,
            "checkpoint_bytes_max": 0,
            "files_bytes_max": 0,
            # The same text of the same bytes, whenever it is made.
            "clock": "virtual",
            "entropy": "seeded",
            "seed": 0,
        },
        cell={
            "fuel_max": fuel,
            "wall_ms_max": wall_ms,
            "stdout_bytes_max": DOCUMENT_OUTPUT_BYTES_MAX,
            "stderr_bytes_max": DOCUMENT_OUTPUT_BYTES_MAX,
            "result_bytes_max": DOCUMENT_TEXT_BYTES_MAX,
            "source_bytes_max": 1 << 20,
            "requests_max": 1,
            "sleep_ms_max": 1,
        },
        # Of these a cell is a part.
        boundary={"batch_items_max": 1},
        budget={"fuel_max": max(fuel, policy.budget.fuel_max)},
        run={"wall_ms_max": max(wall_ms, policy.run.wall_ms_max)},
    )


class DocumentConverter:
    """Turns documents into text, for `inputs` to call. Starts with the first one; close it, or use `with`.

    Any thread may call it, also one where an event loop runs, which stands still meanwhile. Ctrl-C ends the
    conversion. `on_progress` is called on another thread.
    """

    def __init__(self, policy: Policy, on_progress: OnConverting | None = None) -> None:
        self._policy = policy
        self._limits = policy.input_limits()
        self._on_progress = on_progress
        self._stack = ExitStack()
        self._sandbox: Sandbox | None = None
        self._loop = BackgroundLoop("the conversion of documents", instead=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __call__(self, file: str, kind: DocumentKind, data: bytes, bytes_max: int, /) -> ConvertedDocument:
        """Return the text of a document, of at most `bytes_max` bytes of UTF-8.

        Raises:
            InputError: it is damaged, encrypted or without text; takes or gives more than the policy allows
                (InputTooLarge); or there is no image `data` (InputNotConverted).
            ArtifactError: the guest is not what was built.
            LockdownError, PolicyError: the policy's isolation, or a guest of the image, cannot be had.
            Overloaded, HostExhausted: there is no room for a session. WorkerLost: its process is gone.
        """
        limit, key = min((bytes_max, BYTES_KEY), (DOCUMENT_TEXT_BYTES_MAX, None), key=lambda each: each[0])
        sandbox = self._opened()
        try:
            return self._loop.call(self._convert, sandbox, file, kind, data, limit, key)
        except ArtifactError as error:
            raise _no_image(file, kind, error) from error
        except WorkerLost:
            raise  # what became of its process says nothing of the document
        except GuestError as error:
            raise self._refusal(file, kind, error) from error

    def _opened(self) -> Sandbox:
        if self._sandbox is None:
            self._loop.open(self._open())
            self._stack.push(self._loop.close)
        assert self._sandbox is not None
        return self._sandbox

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        # Made there: what it waits with belongs to the loop where it is made, which here can be another.
        async with Sandbox(converter_policy(self._policy)) as self._sandbox:
            yield

    async def _convert(
        self, sandbox: Sandbox, file: str, kind: DocumentKind, data: bytes, limit: int, key: str | None
    ) -> ConvertedDocument:
        source = conversion(kind, limit)
        # The cells' own deadlines are of what they compute; this is of all of it.
        with anyio.move_on_after(self._limits.document_wall_ms_max / 1000):
            async with sandbox.session() as session:
                await session.load("document", data)
                done = await session.exec(source, on_output=lambda output: self._tell(file, output))
                told = _told(done)
                text: str | None = None
                if isinstance(told, dict) and "parts" in told:
                    frame = (await session.exec(_TELL_TEXT)).raise_for_outcome().value_frame
                    # Larger than any honest one, it has not come.
                    text = None if frame is None else decode_text(frame)
            return documents.converted(file, kind, told, text, limit, key)
        raise documents.takes_too_much(file, kind, _WALL_KEY, self._limits.document_wall_ms_max)

    def _tell(self, file: str, output: Output) -> None:
        if self._on_progress is None:
            return
        for done, total in _DONE.findall(output.text):
            self._on_progress(file, int(done), int(total))

    def _refusal(self, file: str, kind: DocumentKind, error: GuestError) -> InputError:
        limits = self._limits
        match error:
            case FuelExhausted():
                return documents.takes_too_much(file, kind, _FUEL_KEY, limits.document_fuel_max)
            case DeadlineExceeded():
                return documents.takes_too_much(file, kind, _WALL_KEY, limits.document_wall_ms_max)
            case MemoryExceeded() | GuestException(type_name="MemoryError"):
                return documents.takes_too_much(file, kind, _MEMORY_KEY, limits.document_memory_bytes_max)
        return documents.refusal(file, kind, "damaged")


def _told(done: CellResult) -> Value:
    """Return what a conversion said; a value of another form, or of no honest one's size, is as good as none.

    Raises GuestError: the cell did not complete, or what it sent is nonsense.
    """
    frame = done.raise_for_outcome().value_frame
    if frame is None or len(frame) > _TOLD_BYTES_MAX:
        return None
    try:
        return decode_value(frame)
    except UsageError:
        return None


def conversion(kind: DocumentKind, text_bytes_max: int) -> str:
    """Return the cell that turns a document of this kind into text. Raises ArtifactError: it is missing."""
    folder = guest_dir() / _FOLDER
    parts = [(folder / name).read_text(encoding="utf-8") for name in _CELLS[kind]]
    return "\n".join([f"TEXT_MAX = {text_bytes_max}", *parts])


def _no_image(file: str, kind: DocumentKind, error: ArtifactError) -> InputNotConverted:
    hint = f"; {error.hint}" if error.hint else ""
    return InputNotConverted(
        file,
        f"cannot turn {shown(file)}, {kind.called}, into text: {error.message}{hint}; {documents.AS_IT_IS}",
        no_image=True,
    )

"""The inputs of a recorded run: checked beside the event loop, whose other runs go on meanwhile."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.replay.recording import RecordedContext, Recording
from tests.support.core_facts import RUN

pytestmark = pytest.mark.anyio


class Heard(InputFile):
    """A file that keeps which threads hashed it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.threads: list[threading.Thread] = []

    def hash_into(self, update: Callable[[memoryview], None], offset: int) -> None:
        self.threads.append(threading.current_thread())
        super().hash_into(update, offset)


def recording_of(content: bytes) -> Recording:
    digest = hashlib.sha256(content).hexdigest()
    context = RecordedContext("context", "LazyText", len(content), digest, None)
    return Recording("events.jsonl", (), RUN, "?", "", (context,), "", None)


async def test_a_file_is_hashed_by_another_thread(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_bytes(b"some text")
    given = Heard(path)
    recording = recording_of(b"some text")
    inputs = recording.inputs({"context": given})
    assert inputs == {"context": given}
    assert not given.threads
    await recording.check_files(inputs)
    assert given.threads
    assert threading.current_thread() not in given.threads


async def test_another_file_than_was_recorded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_bytes(b"some text")
    recording = recording_of(b"other text")
    inputs = recording.inputs({"context": InputFile(path)})
    with pytest.raises(UsageError, match="is not the one that was recorded"):
        await recording.check_files(inputs)
    path.write_bytes(b"other text")
    with pytest.raises(UsageError, match=r"cannot be read: .* was changed"):
        await recording.check_files(inputs)
    with pytest.raises(UsageError, match=r"is not in events\.jsonl"):
        recording.inputs({})

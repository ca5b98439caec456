"""`Output`: what a cell writes, for a function of the caller's that wants it while the cell runs."""

from __future__ import annotations

import codecs
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from rlm_wasm.errors import UsageError

_STREAMS: Final[dict[int, Literal["stdout", "stderr"]]] = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True)
class Output:
    """Some text that a cell wrote, one line of it or more as a rule: the guest's, whatever it holds."""

    stream: Literal["stdout", "stderr"]
    text: str


class OnOutput(Protocol):
    """A function that takes what a cell writes while it runs: in order, all of it, within the cell's caps.

    It is called on the event loop's thread, and so should return soon. What it raises interrupts the cell and
    comes out of `SandboxSession.exec`; the session lives on.
    """

    def __call__(self, output: Output, /) -> None:
        """Take some text."""


class LiveOutput:
    """Makes text of the bytes of one cell's streams, and hands it on. A character may come in two pieces."""

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        self._decoders = {number: codecs.getincrementaldecoder("utf-8")("replace") for number in _STREAMS}

    def take(self, stream: int, data: bytes) -> None:
        """Hand on what is whole of the bytes that came. Raises what the caller's function raises."""
        self._hand_on(stream, self._decoders[stream].decode(data))

    def end(self) -> None:
        """Hand on what was no character to the end."""
        for stream, decoder in self._decoders.items():
            self._hand_on(stream, decoder.decode(b"", final=True))

    def _hand_on(self, stream: int, text: str) -> None:
        if not text:
            return
        returned: object = self._on_output(Output(_STREAMS[stream], text))  # type: ignore[func-returns-value]
        if isinstance(returned, Coroutine):
            returned.close()
            raise UsageError("on_output returned a coroutine, which nobody awaits: it is no async function")

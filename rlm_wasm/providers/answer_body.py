"""The body of an answer as it comes in: one JSON document, or server-sent events, each up to a cap."""

from __future__ import annotations

from typing import Final

from rlm_wasm.providers.json_body import NOT_JSON, TOO_MANY_VALUES, read_json
from rlm_wasm.providers.refusals import Trouble, error_within
from rlm_wasm.providers.wire_format import Pieces

# An event of some three hundred bytes brings one token, of a few.
_FRAMING_FACTOR: Final = 64
# A line counts as so many bytes even where it is shorter: to look at it takes its time.
_LINE_BYTES_LEAST: Final = 128
# No JSON text begins with one of these.
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b":")
_BOM: Final = b"\xef\xbb\xbf"
# What keeps a connection from being taken for a dead one: an event's name, or all of its data.
_SIGNS_OF_LIFE: Final = frozenset(
    {b"ping", b"pong", b"alive", b"keepalive", b"keep-alive", b"keep_alive", b"heartbeat", b"null"}
)


class WholeBody:
    """Keeps what comes, until it is more than `bytes_max`."""

    thought_bytes: Final = 0  # all that there are, are in the document

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max: Final = bytes_max
        self._body = bytearray()
        self.too_long = False

    def take(self, chunk: bytes) -> bool:
        """Take what came; return whether more is wanted."""
        self.too_long = self.too_long or len(self._body) + len(chunk) > self._bytes_max
        if not self.too_long:
            self._body += chunk
        return not self.too_long

    @property
    def body(self) -> bytes | None:
        """What came; None: more than may come."""
        return None if self.too_long else bytes(self._body)

    def document(self) -> object:
        """Return what the JSON says that came, or a Trouble."""
        if self.too_long:
            return Trouble(f"sent more than {self._bytes_max} bytes", retryable=False)
        if not self._body.strip():
            return Trouble("sent nothing", retryable=True)
        document = read_json(bytes(self._body))
        if document is TOO_MANY_VALUES:
            return Trouble("sent more values than an answer has", retryable=False)
        return (
            Trouble("sent something that is not JSON", retryable=False) if document is NOT_JSON else document
        )


class EventBody:
    """Hands what comes in server-sent events to the `pieces` of an answer.

    Only text is kept, at most `bytes_max` of it; an event is no longer than that either, and all of them
    together are no longer than `_FRAMING_FACTOR` times as much. What comes after the end is not read.
    """

    def __init__(self, bytes_max: int, pieces: Pieces) -> None:
        self._bytes_max: Final = bytes_max
        self._pieces: Final = pieces
        self._bytes = 0
        self._line = bytearray()
        self._after_cr = False  # a line feed that comes next ends no line of its own
        self._data = bytearray()  # of an event that takes more than one line
        self._alive = False  # the event that comes is called a sign of life
        self._outcome: object = None  # of an event that ends it all: a Trouble, or a document
        self._done = False

    @property
    def thought_bytes(self) -> int:
        """How much of thoughts came, which are no longer in the document."""
        return self._pieces.thought_bytes

    def take(self, chunk: bytes) -> bool:
        """Take what came; return whether more is wanted."""
        self._count(len(chunk))
        *lines, rest = self._lines(chunk)
        for line in lines:
            if self._over:
                break
            self._count(_LINE_BYTES_LEAST - min(len(line), _LINE_BYTES_LEAST))
            self._take_line(bytes(self._line) + line)
            self._line.clear()
        if not self._over:
            self._line += rest
            if len(self._line) > self._bytes_max:
                self._too_long(self._bytes_max)
        return not self._over

    def document(self) -> object:
        """Return what a server that does not stream would have sent, or a Trouble."""
        if not self._over:  # the connection ended, perhaps without the last line's end
            self._take_line(bytes(self._line))
            self._take_line(b"")
        if self._outcome is not None:
            return self._outcome
        return self._pieces.document(ended=self._done)

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Return what stands between the ends of lines: LF, CR, or both, which may come apart."""
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r") if chunk else self._after_cr
        if after_cr:
            chunk = chunk.removeprefix(b"\n")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")

    @property
    def _over(self) -> bool:
        return self._done or self._outcome is not None

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._bytes_max * _FRAMING_FACTOR:
            self._too_long(self._bytes_max * _FRAMING_FACTOR)

    def _too_long(self, most: int) -> None:
        if not self._over:
            self._outcome = Trouble(f"sent more than {most} bytes", retryable=False)

    def _take_line(self, line: bytes) -> None:
        line = line.removeprefix(_BOM)
        if not line:
            self._end_event()
            return
        name, _, value = line.partition(b":")
        value = value.strip()
        if name == b"event":
            self._alive = _is_sign_of_life(value)
        if name != b"data":
            return
        if value == b"[DONE]":
            self._done = True
        elif value and (self._data or not _is_sign_of_life(value)):
            # Some servers leave the line out that ends an event: what is a document is one.
            document = NOT_JSON if self._data else read_json(value)
            if document is NOT_JSON:
                self._data += value + b"\n"
                if len(self._data) > self._bytes_max:
                    self._too_long(self._bytes_max)
            else:
                self._take_document(document)

    def _end_event(self) -> None:
        data, alive = bytes(self._data), self._alive
        self._data.clear()
        self._alive = False
        if not data or self._over:
            return
        document = read_json(data)
        if document is not NOT_JSON or not alive:
            self._take_document(document)

    def _take_document(self, document: object) -> None:
        if document is NOT_JSON:
            self._outcome = Trouble("sent an event that is not JSON", retryable=True)
            return
        if document is TOO_MANY_VALUES:
            self._outcome = Trouble("sent more values than an answer has", retryable=False)
            return
        if not isinstance(document, dict) or error_within({}, document):
            self._outcome = document  # its gate says what is wrong with it
            return
        self._done = self._pieces.take(document)
        if self._pieces.kept_bytes > self._bytes_max:
            self._done = False
            self._too_long(self._bytes_max)


def _is_sign_of_life(value: bytes) -> bool:
    return value.strip(b'"[]').lower() in _SIGNS_OF_LIFE


def body_for(content_type: str, start: bytes, bytes_max: int, pieces: Pieces) -> WholeBody | EventBody:
    """Return what reads a body that starts so: its own first byte says more than its header."""
    start = start.removeprefix(_BOM).lstrip()
    if start[:1] in (b"{", b"["):
        return WholeBody(bytes_max)
    if content_type.lower().startswith("text/event-stream") or start.startswith(_FIELDS):
        return EventBody(bytes_max, pieces)
    return WholeBody(bytes_max)

"""The body of an answer as it comes in: one JSON document, or server-sent events, each up to a cap."""

from __future__ import annotations

from typing import Final

from rlm_wasm.providers.json_body import NOT_JSON, TOO_MANY_VALUES, first, member, read_json
from rlm_wasm.providers.openai_refusal import Trouble, error_within
from rlm_wasm.providers.openai_response import BESIDE_THE_TEXT, text_of, thoughts_bytes
from rlm_wasm.scheduler.pricing import utf8_bytes

# An event of some three hundred bytes brings one token, of a few.
_FRAMING_FACTOR: Final = 64
# A line counts as so many bytes even where it is shorter: to look at it takes its time.
_LINE_BYTES_LEAST: Final = 128
# No JSON text begins with one of these.
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b":")
_BOM: Final = b"\xef\xbb\xbf"
_LINE_ENDS: Final = b"\r\n"


class WholeBody:
    """Keeps what comes, until it is more than `bytes_max`."""

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


class EventBody:
    """Puts the deltas of a chat completion together, as they come in server-sent events.

    Only text is kept, at most `bytes_max` of it; an event is no longer than that either, and all of them
    together are no longer than `_FRAMING_FACTOR` times as much. What comes after the end is not read.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max: Final = bytes_max
        self._bytes = 0
        self._kept_bytes = 0
        self._line = bytearray()
        self._data = bytearray()  # of an event that takes more than one line
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._beside: set[str] = set()  # what came beside the text: that there was some is enough
        self._finish: object = None
        self._usage: object = None
        self._outcome: object = None  # of an event that ends it all: a Trouble, or a document
        self._done = False
        self.thought_bytes = 0

    def take(self, chunk: bytes) -> bool:
        """Take what came; return whether more is wanted."""
        self._count(len(chunk))
        *lines, rest = chunk.split(b"\n")
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
        if not self._done and self._finish is None:
            return Trouble("broke off its answer", retryable=True)
        message: dict[str, object] = dict.fromkeys(self._beside, True)
        message |= {"content": "".join(self._texts), "refusal": "".join(self._refusals)}
        return {"choices": [{"message": message, "finish_reason": self._finish}], "usage": self._usage}

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
        line = line.rstrip(_LINE_ENDS).removeprefix(_BOM)
        if not line:
            data = bytes(self._data)
            self._data.clear()
            if data and not self._over:
                self._take_document(read_json(data))
            return
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.strip()
        if value == b"[DONE]":
            self._done = True
        elif value:
            # Some servers leave the line out that ends an event: what is a document is one.
            document = NOT_JSON if self._data else read_json(value)
            if document is NOT_JSON:
                self._data += value + b"\n"
                if len(self._data) > self._bytes_max:
                    self._too_long(self._bytes_max)
            else:
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
        self._usage = document.get("usage") or self._usage
        choice = first(document.get("choices"))
        if member(choice, "index") in (None, 0):
            self._take_choice(choice)

    def _take_choice(self, choice: object) -> None:
        delta = member(choice, "delta") or member(choice, "message")
        refused = member(delta, "refusal")
        self._keep(self._texts, text_of(member(delta, "content")))
        self._keep(self._refusals, refused if isinstance(refused, str) else "")
        self.thought_bytes += thoughts_bytes(delta)
        self._beside.update(name for name in BESIDE_THE_TEXT if member(delta, name))
        self._finish = member(choice, "finish_reason") or self._finish

    def _keep(self, texts: list[str], text: str) -> None:
        if text:
            texts.append(text)
            self._kept_bytes += utf8_bytes(text)
            if self._kept_bytes > self._bytes_max:
                self._too_long(self._bytes_max)


def body_for(content_type: str, start: bytes, bytes_max: int) -> WholeBody | EventBody:
    """Return what reads a body that starts so: its own first byte says more than its header."""
    start = start.removeprefix(_BOM).lstrip()
    if start[:1] in (b"{", b"["):
        return WholeBody(bytes_max)
    if content_type.lower().startswith("text/event-stream") or start.startswith(_FIELDS):
        return EventBody(bytes_max)
    return WholeBody(bytes_max)

"""An event as one line of JSON, and back: the one form in which events leave memory."""

from __future__ import annotations

from typing import Final

import msgspec

from rlm_wasm.events import Event

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Event)


def encode_line(event: Event) -> bytes:
    """Return the line, its end included. The same event always gives the same bytes."""
    return _ENCODER.encode(event) + b"\n"


def decode_line(line: bytes) -> Event:
    """Return the event of a line that `encode_line` made; another one raises ValueError.

    The envelope's types are checked here; what `data` must hold is `catalogue.fault_of`'s to say.
    """
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(str(exc) or type(exc).__name__) from exc

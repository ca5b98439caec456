"""The host of a session without a run: there is no model to ask."""

from __future__ import annotations

from rlm_wasm.errors import QueryError
from rlm_wasm.protocol.guest_frames import encode_response
from rlm_wasm.scheduler.request import Denied


async def nobody_answers(frame: bytes) -> bytes:
    """Deny every request; in the guest that is a QueryError."""
    return encode_response(Denied(QueryError("this session has no model to ask")))

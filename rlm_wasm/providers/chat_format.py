"""The kind `openai`: any endpoint that speaks OpenAI's /chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.providers.chat_answer import ChatPieces, completion_of
from rlm_wasm.providers.endpoint import Endpoint
from rlm_wasm.providers.refusals import Trouble
from rlm_wasm.providers.roles import messages_in
from rlm_wasm.providers.wire_format import KeyHeader


class ChatFormat:
    """Chat completions."""

    path: Final[str] = "/chat/completions"
    key_header: Final[KeyHeader] = KeyHeader("Authorization", "Bearer ")
    headers: Final[Mapping[str, str]] = {}

    def body(self, endpoint: Endpoint, query: Query) -> dict[str, object]:
        """Return a request for one completion."""
        return {
            "model": query.model,
            "messages": messages_in(endpoint.roles, query.messages),
            endpoint.output_tokens_field: query.output_tokens_max,
            "stream": False,  # some servers stream unless they are told
        }

    def pieces(self) -> ChatPieces:
        """Return what takes the deltas of a stream."""
        return ChatPieces()

    def answer(
        self, document: object, headers: Mapping[str, str], thought_bytes: int
    ) -> Completion | Trouble:
        """Return the answer that a completion is, or what it is instead."""
        return completion_of(document, headers, thought_bytes)

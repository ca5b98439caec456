"""A kind of endpoint, as an interface: where a request goes, what it says, what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.providers.endpoint import Endpoint
from rlm_wasm.providers.refusals import Trouble


class KeyHeader(NamedTuple):
    """Where a key goes: a header, and what stands before the key in it."""

    name: str
    before: str = ""


class Pieces(Protocol):
    """The events of one streamed answer, put together as they come. Only text is kept."""

    # How much text there is, in bytes, and how much of thoughts there was beside it.
    kept_bytes: int
    thought_bytes: int

    def take(self, document: Mapping[str, object]) -> bool:
        """Take an event that is no error; return whether it is the last."""
        ...

    def document(self, *, ended: bool) -> object:
        """Return what a server that does not stream would have sent, or a Trouble.

        `ended`: the stream said that it was over.
        """
        ...


class WireFormat(Protocol):
    """A kind of endpoint. It decides nothing about money or retries: that is for the facts it returns."""

    @property
    def path(self) -> str:
        """Where requests go, below the endpoint's base."""
        ...

    @property
    def key_header(self) -> KeyHeader:
        """Where a key goes, unless the endpoint has it elsewhere."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request of this kind has in its header."""
        ...

    def body(self, endpoint: Endpoint, query: Query) -> dict[str, object]:
        """Return what the request says, as JSON has it."""
        ...

    def pieces(self) -> Pieces:
        """Return what takes the events of a stream."""
        ...

    def answer(
        self, document: object, headers: Mapping[str, str], thought_bytes: int
    ) -> Completion | Trouble:
        """Return the answer that a document of a 200 is, or what it is instead. Raises nothing.

        `thought_bytes` is how much of thoughts is no longer in it.
        """
        ...

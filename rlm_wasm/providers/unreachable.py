"""The ways in which a connection to an endpoint fails, and one sentence for each."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

# Of a chain of causes and groups.
_CAUSES_MAX: Final = 32
# What the library says of an answer that breaks the protocol: what a server would have answered to that.
_PROTOCOL_ERROR: Final = "error_status_hint"
_HEADERS_TOO_LONG: Final = 431


class Unreachable(NamedTuple):
    """What is wrong, said of the one that was to be connected to, and whether that may pass."""

    reason: str
    retryable: bool


def why_unreachable(error: BaseException) -> Unreachable:
    """Return what the causes of a failed connection come to."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unreachable(
                f"has a TLS certificate that is not accepted: {cause.verify_message}", retryable=False
            )
        if isinstance(cause, ssl.SSLError):
            word = (cause.reason or type(cause).__name__).replace("_", " ").lower()
            # An answer in plain text will be one the next time too.
            return Unreachable(
                f"failed the TLS handshake: {word}", retryable=cause.reason != "WRONG_VERSION_NUMBER"
            )
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return Unreachable(f"was not found: its name has no address ({cause.strerror})", retryable=True)
        if isinstance(cause, ConnectionRefusedError):
            return Unreachable("refused the connection", retryable=True)
    return Unreachable("could not be connected to", retryable=True)


def why_broken_off(error: BaseException, *, answered: bool) -> Unreachable:
    """Return why a connection brought no whole answer; `answered`: its headers had come."""
    hints = [getattr(cause, _PROTOCOL_ERROR, None) for cause in _causes(error)]
    if _HEADERS_TOO_LONG in hints:
        # They will be as long the next time.
        return Unreachable("sent longer headers than are read", retryable=False)
    if answered:
        return Unreachable("broke off its answer", retryable=True)
    if any(hints):
        return Unreachable(
            "sent something that is not HTTP: does base_url name the right port, and https where it has to?",
            retryable=True,
        )
    return Unreachable("closed the connection without an answer", retryable=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    waiting = [error]
    for _ in range(_CAUSES_MAX):
        if not waiting:
            return
        cause = waiting.pop(0)
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
        waiting += [each for each in (cause.__cause__, cause.__context__) if each is not None]

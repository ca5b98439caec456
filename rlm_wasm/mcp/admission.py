"""`Admission`: the gate for requests over HTTP, by their headers alone and before anything of a body is read.

The Host and the Origin stand against DNS rebinding: a page of a browser on this machine, whose own name leads
here, says both as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rlm_wasm.mcp.client_keys import ClientKeys

# Of who needs no key.
ANYBODY: Final = ""
_ONCE: Final = (b"host", b"origin", b"authorization")


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """Why a request is refused, and the status that says so."""

    status: int
    reason: str


class Admission:
    """What a request has to say to be served: to which host it is, from which page, and with which key.

    `hosts` are names with ports. Without `keys` none is asked for.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str], keys: ClientKeys | None) -> None:
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        own = (f"{scheme}://{host}" for host in hosts for scheme in ("http", "https"))
        self._origins = frozenset(origin.lower().encode() for origin in (*own, *origins))
        self._keys = keys

    def client_of(self, headers: Sequence[tuple[bytes, bytes]]) -> str | NotAdmitted:
        """Return the client that a request is from, or why it is refused."""
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _ONCE and found.setdefault(name, value) is not value:
                return NotAdmitted(400, f"the header {name.decode()} is there twice")
        if found.get(b"host", b"").lower() not in self._hosts:
            return NotAdmitted(421, "this server has another name; --allow-host gives it one more")
        origin = found.get(b"origin")
        if origin is not None and origin.lower() not in self._origins:
            return NotAdmitted(403, "pages of this origin may not ask here; --allow-origin lets them")
        if self._keys is None:
            return ANYBODY
        client = self._keys.client_of(found.get(b"authorization", b""))
        return NotAdmitted(401, "a bearer key is needed") if client is None else client

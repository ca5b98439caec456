"""The options of serving MCP over HTTP: where, under which names, and for which keys."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_wasm.errors import UsageError
from rlm_wasm.inputs.open_file import read_whole
from rlm_wasm.limits import MCP_KEYS_BYTES_MAX

if TYPE_CHECKING:
    from rlm_wasm.mcp.admission import Admission
    from rlm_wasm.mcp.client_keys import ClientKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """As they are said. Without an address none of the others may be there."""

    http: str | None
    keys_file: str | None
    keys_env: str | None
    hosts: tuple[str, ...]
    origins: tuple[str, ...]

    def __post_init__(self) -> None:
        others = (self.keys_file, self.keys_env, self.hosts, self.origins)
        if self.http is None and any(others):
            raise UsageError("keys, hosts and origins are for --http", hint="--http 127.0.0.1:8765")

    def read_keys(self) -> ClientKeys | None:
        """Return the keys, if there are any. Raises UsageError for what is none."""
        from rlm_wasm.mcp.client_keys import ClientKeys

        if self.keys_file is not None and self.keys_env is not None:
            raise UsageError("--keys and --keys-env are two places for the same keys")
        if self.keys_file is not None:
            data = read_whole(self.keys_file, MCP_KEYS_BYTES_MAX, "a file of keys")
            return ClientKeys.of(data.decode("utf-8", "replace"), self.keys_file)
        if self.keys_env is not None:
            if not (text := os.environ.get(self.keys_env, "")):
                raise UsageError(f"the environment variable {self.keys_env} has no key")
            return ClientKeys.of(text[:MCP_KEYS_BYTES_MAX], self.keys_env)
        return None

    def open(self) -> tuple[socket.socket, Admission, str]:
        """Return a socket that listens, who is let in, and the words that say so.

        Raises UsageError: it cannot listen there, or without keys others than this machine could come.
        """
        from rlm_wasm.mcp.admission import Admission
        from rlm_wasm.mcp.http import PATH, Address

        assert self.http is not None
        address, keys = Address.of(self.http), self.read_keys()
        if keys is None and not address.is_loopback:
            raise UsageError(
                f"{address.host} is an address that others come to, and there is no key",
                hint="--keys FILE or --keys-env NAME; without: --http 127.0.0.1:PORT",
            )
        if address.is_any and not self.hosts:
            raise UsageError(
                f"{address.host} does not say what this server is called", hint="--allow-host NAME:PORT"
            )
        listening = address.listen()
        port = listening.getsockname()[1]
        admission = Admission([*address.names(port), *self.hosts], self.origins, keys)
        who = "no key: whoever is on this machine may use it" if keys is None else f"{len(keys)} keys"
        shown = f"[{address.host}]" if ":" in address.host else address.host
        return listening, admission, f"http://{shown}:{port}{PATH} · {who}"

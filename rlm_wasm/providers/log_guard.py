"""Keeps a key out of the debug logs of the HTTP libraries, which quote what a server sends in headers."""

from __future__ import annotations

import logging
from typing import Final

from rlm_wasm.providers.secret import Secret

# Filters of a logger are not asked about the records of those below it: each is named.
_LOGGERS: Final = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")


class LogGuard(logging.Filter):
    """Replaces a key in the libraries' own log records. Costs nothing while nobody logs them."""

    def __init__(self, key: Secret) -> None:
        super().__init__()
        self._key: Final = key
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through, without the key."""
        record.msg, record.args = self._key.redact(record.getMessage()), None
        return True

    def close(self) -> None:
        """Leave the loggers as they were. Safe to call again."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)

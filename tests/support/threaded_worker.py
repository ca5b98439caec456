"""A worker whose warm-up leaves a thread behind, which it must not."""

from __future__ import annotations

import threading

from tests.support.worker_entry import serve

__all__ = ["serve", "warm"]


def warm() -> None:
    """Start a thread that never ends."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()

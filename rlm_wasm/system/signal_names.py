"""The names of signals, those without one included: a process may be ended by any number."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """Return a signal's name, as `SIGKILL`; of one that has none, as a real-time signal, its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""Every number that may end a process has a name."""

from __future__ import annotations

import signal

from rlm_wasm.system.signal_names import signal_name


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert signal_name(signal.SIGKILL) == "SIGKILL"
    assert signal_name(signal.SIGRTMIN + 3) == f"signal {signal.SIGRTMIN + 3}"
    assert all(signal_name(number) for number in range(1, signal.SIGRTMAX + 1))

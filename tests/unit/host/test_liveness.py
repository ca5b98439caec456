"""When a silent worker hangs: a second without doing anything, or a second of its own CPU time."""

from __future__ import annotations

import pytest

from rlm_wasm.host.liveness import hangs
from rlm_wasm.system.memory_pressure import memory_pressure_permille, parse

MS = 1_000_000


@pytest.mark.parametrize(
    ("silent_ms", "cpu_ms", "verdict"),
    [
        (999, 0, False),
        (1_000, 0, True),  # stopped
        (1_000, None, True),
        (1_000, 300, False),  # busy on a busy machine
        (4_000, 999, False),
        (4_000, 1_000, True),
        (10_000, 300, True),
    ],
)
def test_a_worker_hangs_if_it_does_nothing_or_had_its_time(silent_ms, cpu_ms, verdict):
    assert hangs(silent_ms * MS, cpu_ms, 1_000) is verdict


def test_one_that_copies_memory_may_use_more_time_but_not_stand_still():
    assert not hangs(4_000 * MS, 3_000, 1_000, copies=True)
    assert hangs(1_000 * MS, 0, 1_000, copies=True)
    assert hangs(10_000 * MS, 9_999, 1_000, copies=True)


def test_pressure_is_the_ten_second_average_of_some():
    text = (
        "some avg10=12.34 avg60=1.00 avg300=0.00 total=5\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    assert parse(text) == 123


def test_a_kernel_without_pressure_has_none():
    assert memory_pressure_permille("/nonexistent") == 0
    assert memory_pressure_permille("/proc/version") == 0
    assert 0 <= memory_pressure_permille() <= 1000

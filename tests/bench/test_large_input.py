"""An input larger than the guest's memory is found in, counted, sliced and gone through: the short form."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.bench.large_input import MEMORY_BYTES_MAX, MIB, policy_for, report, take, write_lines

SIZE = 80 * MIB


@pytest.mark.guest
@pytest.mark.threat("T-202")
@pytest.mark.parametrize("isolation", ["inline", "session"])
def test_passes_over_a_large_input_take_no_memory_for_it(isolation: str, tmp_path: Path) -> None:
    path = tmp_path / "big.log"
    write_lines(path, SIZE)
    policy = policy_for(path.stat().st_size, isolation, memory_bytes_max=MEMORY_BYTES_MAX // 4)
    figures = anyio.run(take, path, policy)
    assert figures.size > SIZE
    # What 32 MiB of lines in its own memory take is in it: they are what the others are compared with.
    assert figures.guest_bytes <= MEMORY_BYTES_MAX // 4
    assert figures.host_grown_bytes < SIZE
    assert len(list(report(figures, isolation))) > 5

"""The memory of this process (PSS): its share of what it shares with others included."""

from __future__ import annotations

import gc
from pathlib import Path

from rlm_wasm.errors import InternalError


def pss_kb() -> int:
    """Return the process's proportional set size, in kB, after a garbage collection."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise InternalError("/proc/self/smaps_rollup has no Pss line")

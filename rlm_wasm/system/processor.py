"""The processor of this machine, as far as native code is made for what it can do."""

from __future__ import annotations

from typing import Final

# The flags of /proc/cpuinfo by which the compiler chooses instructions.
_KNOWN: Final = frozenset(
    {
        "pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "avx", "avx2", "fma", "bmi1", "bmi2", "abm", "cx16",
        "avx512f", "avx512dq", "avx512vl", "avx512vbmi", "avx512_bitalg",
    }
)  # fmt: skip
_CPUINFO: Final = "/proc/cpuinfo"


def processor_features(cpuinfo: str = _CPUINFO) -> str:
    """Return those features, in one line that is the same on each such processor."""
    found = frozenset[str]()
    with open(cpuinfo, encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                found = frozenset(value.split())
                break
    return " ".join(sorted(found & _KNOWN))

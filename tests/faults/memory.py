"""What another process holds in its memory and its environment, read as a debugger would."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_READ_BYTES: Final = 1 << 20


def holds(pid: int, needles: tuple[bytes, ...]) -> tuple[set[bytes], int]:
    """Return which of these byte strings a process has anywhere, and how many bytes could be read."""
    found: set[bytes] = set()
    read = 0
    longest = max(map(len, needles))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode = line.split()[:2]
            if not mode.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            tail = b""
            while start < end:
                try:
                    memory.seek(start)
                    part = memory.read(min(_READ_BYTES, end - start))
                except (OSError, ValueError, OverflowError):
                    part = b""
                if not part:  # no page of a file behind it, or none that anybody may read
                    start, tail = start + _READ_BYTES, b""
                    continue
                window = tail + part
                found |= {needle for needle in needles if needle in window}
                tail = window[1 - longest :]
                read += len(part)
                start += len(part)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    return found | {needle for needle in needles if needle in environment}, read + len(environment)

"""An input much larger than the guest: found in, counted, sliced and gone through, and how fast that is.

    python -m tests.bench.large_input 20 --folder /var/tmp

writes so many GiB of lines, each byte of them (no holes), with a needle in the last. The policy is `standard`
with the fuel and time that whole passes take and a guest of 512 MiB. Speeds are against `pread` of that file,
and against lines of a file in the guest's own memory, in the same run. The file is removed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import anyio

from rlm_wasm import InputFile, Policy, Sandbox, SandboxSession

MIB: Final = 1 << 20
NEEDLE: Final = "the needle is 7421"
_BLOCK_LINES: Final = 200_000
_IN_MEMORY_BYTES: Final = 32 * MIB
MEMORY_BYTES_MAX: Final = 512 * MIB


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run measured: bytes a second by what was done, and the memory it took."""

    size: int
    speeds: dict[str, float]
    guest_bytes: int
    host_grown_bytes: int


def write_lines(path: Path, size: int) -> None:
    """Write at least `size` bytes of lines, every tenth with characters beyond ASCII, and the needle."""
    block = "".join(
        f"2026-11-{number % 28 + 1:02} worker-{number % 97} request {number * 7919 % 1000003} "
        + ("größe 漢字 ok\n" if number % 10 == 0 else "took a while and then it was done\n")
        for number in range(_BLOCK_LINES)
    ).encode()
    with path.open("wb", buffering=0) as file:
        written = 0
        while written < size:
            # Each block begins otherwise, so that no two are the same.
            head = f"block {written}\n".encode()
            file.write(head + block)
            written += len(head) + len(block)
        file.write(f"{NEEDLE}\n".encode())


def policy_for(size: int, isolation: str, *, memory_bytes_max: int = MEMORY_BYTES_MAX) -> Policy:
    """Return `standard` with what passes over so many bytes take, with the layers that this machine gives."""
    data: dict[str, Any] = Policy.builtin("standard").to_mapping()
    data["sandbox"] |= {"isolation": isolation, "memory_bytes_max": memory_bytes_max}
    data["sandbox"] |= {"context_bytes_max": 64 * MIB, "whole_context_chars_max": 10**6}
    data["sandbox"].pop("lockdown", None)
    data["sandbox"]["require_lockdown"] = False
    fuel = 10**9 + 200 * size
    data["cell"] |= {"fuel_max": fuel, "wall_ms_max": 3_600_000}
    data["budget"]["fuel_max"] = max(data["budget"]["fuel_max"], fuel)
    data["run"] |= {"wall_ms_max": 4_000_000, "child_wall_ms_max": 4_000_000}
    return Policy.from_mapping(data, origin="standard, with the fuel and time of a pass")


def pread_seconds(path: Path, size: int) -> float:
    """Read all of it with `pread`, a MiB at a time; return how long that took."""
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(MIB)
    began = perf_counter()
    for offset in range(0, size, MIB):
        os.preadv(fd, [buffer], offset)
    took = perf_counter() - began
    os.close(fd)
    return took


_RAW = """
with open('/inputs/big.log', 'rb', buffering=0) as f:
    n = 0
    while part := f.read(1 << 20):
        n += len(part)
n
"""
_LINES = "n = 0\nfor line in context:\n    n += len(line)\nn"
_LINES_OF_FILE = "n = 0\nfor line in open('/inputs/big.log', encoding='utf-8'):\n    n += len(line)\nn"
_WRITE = """
with open('/tmp/lines', 'w', encoding='utf-8') as f:
    f.write(context[:{size}])
"""
_LINES_IN_MEMORY = "n = 0\nfor line in open('/tmp/lines', encoding='utf-8'):\n    n += len(line)\nn"


class LargeInput:
    """One session with the file as its `context`."""

    def __init__(self, session: SandboxSession, path: Path) -> None:
        self._session = session
        self._path = path
        self.size = path.stat().st_size
        self.speeds: dict[str, float] = {}
        self.guest_bytes = 0

    async def measure(self, name: str, source: str, size: int) -> str:
        """Run a cell that passes over so many bytes; return its result."""
        began = perf_counter()
        result = await self._session.exec(source)
        took = perf_counter() - began
        result.raise_for_outcome()
        self.speeds[name] = size / took
        self.guest_bytes = max(self.guest_bytes, result.memory_peak_bytes)
        return result.result or ""

    async def run(self) -> None:
        """Do everything, and check what comes of it."""
        size = self.size
        await self._session.load("context", InputFile(self._path, name="big.log"))
        self.speeds["pread"] = size / pread_seconds(self._path, size)
        assert await self.measure("raw reads", _RAW, size) == str(size)
        self.speeds["pread again"] = size / pread_seconds(self._path, size)
        place = int(await self.measure("find, in bytes", f"context.bytes.find({NEEDLE.encode()!r})", size))
        assert place == size - len(NEEDLE) - 1
        assert await self.measure("in", f"{NEEDLE!r} in context", size) == "True"
        assert await self.measure("count", f"context.count({NEEDLE!r})", size) == "1"
        count = int(await self.measure("len, in characters", "len(context)", size))
        found = int(await self.measure("find, in characters", f"context.find({NEEDLE!r})", size))
        assert found == count - len(NEEDLE) - 1
        told = await self.measure("a slice", f"context[{found}:{found + len(NEEDLE)}], context[-6:]", MIB)
        assert told == str((NEEDLE, " 7421\n"))
        in_memory = min(_IN_MEMORY_BYTES, size)
        await self._session.exec(_WRITE.format(size=in_memory))
        await self.measure("lines in the guest's memory", _LINES_IN_MEMORY, in_memory)
        assert await self.measure("lines", _LINES, size) == str(count)
        assert await self.measure("lines of the file", _LINES_OF_FILE, size) == str(count)
        await self.measure("lines in the guest's memory, again", _LINES_IN_MEMORY, in_memory)


# ruff: noqa: ASYNC240 - reads of the kernel's own words
async def take(path: Path, policy: Policy) -> Figures:
    """Measure all of it in a session under this policy, a `policy_for` its size."""
    async with Sandbox(policy) as sandbox, sandbox.session() as session:
        await session.exec("1 + 1")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that of now
        before = _peak_bytes()
        made = LargeInput(session, path)
        await made.run()
        grown = _peak_bytes() - before
    return Figures(made.size, made.speeds, made.guest_bytes, grown)


def _peak_bytes() -> int:
    """Return the most memory that this process has had since its peak was forgotten."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def report(figures: Figures, isolation: str) -> Iterator[str]:
    """Yield lines that say what was measured."""
    yield f"{figures.size:,} bytes, isolation {isolation}, policy standard with the fuel and time of a pass"
    for name, speed in figures.speeds.items():
        yield f"  {name:36} {speed / MIB:10,.0f} MiB/s"
    best = min(figures.speeds["pread"], figures.speeds["pread again"])
    yield f"  raw reads to pread                   {figures.speeds['raw reads'] / best:10.2f}"
    own = figures.speeds["lines in the guest's memory"]
    yield f"  lines to lines in the guest's memory {figures.speeds['lines'] / own:10.2f}"
    grown = figures.host_grown_bytes / MIB
    yield f"  guest memory {figures.guest_bytes / MIB:,.0f} MiB, host grown by {grown:,.0f} MiB"


def main() -> None:
    """Read the command line, write the file, measure, remove it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gib", type=float)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--isolation", default="shared", choices=["inline", "shared", "tenant", "session"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "big.log"
        write_lines(path, int(given.gib * (1 << 30)))
        figures = anyio.run(take, path, policy_for(path.stat().st_size, given.isolation))
        print("\n".join(report(figures, given.isolation)))


if __name__ == "__main__":
    main()

"""Write a haystack to stdout: exactly N bytes of plausible text with one needle line in it.

    python examples/needle/make_haystack.py --bytes 50000000 --seed 7 > haystack.txt

The same bytes and seed always give the same file. The needle is `The magic number is NNNNNNN.`,
on a line of its own, anywhere in the file.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator
from typing import BinaryIO

NEEDLE_BYTES = len(b"The magic number is 1234567.\n")
LINES_PER_CHUNK = 8192

OPENINGS = (
    "The harbour office", "A visiting surveyor", "The night clerk", "Our second crew", "The old archive",
    "A letter from the coast", "The council", "The survey team", "Every third entry", "The station master",
    "A retired pilot", "The insurance inspector", "The weather service", "The village school",
)  # fmt: skip
VERBS = (
    "reported", "measured", "copied", "disputed", "filed", "mentioned", "counted", "sketched", "returned",
    "postponed", "recorded", "weighed", "described", "approved",
)  # fmt: skip
OBJECTS = (
    "a shipment of copper wire", "the height of the spring tide", "forty crates of apples", "a cracked bell",
    "the ferry timetable", "three unsigned receipts", "an unusual cloud", "the price of lamp oil",
    "a map without a scale", "the depth of the channel", "a request for more rope", "a broken barometer",
)  # fmt: skip
ENDINGS = (
    "before the first frost", "on the north road", "without giving a reason", "for the second time",
    "in the presence of witnesses", "while the bridge was closed", "according to the ledger",
    "and nobody objected", "during the long calm", "as the contract required", "under a borrowed name",
)  # fmt: skip


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description="Write a text with one magic number hidden in it.")
    parser.add_argument("--bytes", type=int, required=True, help=f"size of the text, at least {NEEDLE_BYTES}")
    parser.add_argument("--seed", type=int, required=True, help="decides the text, the number and its place")
    arguments = parser.parse_args()
    if arguments.bytes < NEEDLE_BYTES:
        parser.error(f"--bytes must be at least {NEEDLE_BYTES}, the length of the needle's line")
    try:
        write_haystack(sys.stdout.buffer, arguments.bytes, arguments.seed)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def write_haystack(out: BinaryIO, size: int, seed: int) -> None:
    """Write exactly `size` bytes, one chunk in memory at a time."""
    rng = random.Random(seed)
    needle = f"The magic number is {rng.randrange(1_000_000, 10_000_000)}.\n".encode()
    needle_at = rng.randrange(size - len(needle) + 1)
    hay_left, written, hidden = size - len(needle), 0, False
    for chunk in hay_chunks(rng):
        hay = chunk[:hay_left]
        hay_left -= len(hay)
        if hay and hay_left == 0:
            hay = hay[:-1] + b"\n"
        if not hidden and needle_at <= written + len(hay):
            # At the start of the line that holds the drawn place.
            cut = hay.rfind(b"\n", 0, needle_at - written) + 1
            hay = hay[:cut] + needle + hay[cut:]
            hidden = True
        out.write(hay)
        written += len(hay)
        if hay_left == 0:
            return


def hay_chunks(rng: random.Random) -> Iterator[bytes]:
    """Yield whole lines without end, some thousand at a time."""
    number = 0
    while True:
        columns = [rng.choices(words, k=LINES_PER_CHUNK) for words in (OPENINGS, VERBS, OBJECTS, ENDINGS)]
        lines = [
            f"{number + index:07d} {opening} {verb} {thing} {ending}.\n"
            for index, (opening, verb, thing, ending) in enumerate(zip(*columns, strict=True))
        ]
        number += LINES_PER_CHUNK
        yield "".join(lines).encode("ascii")


if __name__ == "__main__":
    sys.exit(main())

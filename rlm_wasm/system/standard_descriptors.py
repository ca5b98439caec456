"""The numbers 0, 1 and 2, which other code of the process reads and writes whatever is there."""

from __future__ import annotations

import os


def hold_standard_descriptors() -> None:
    """Open /dev/null at those that are closed; a descriptor of ours would get the number, and the text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            if (fd := os.open(os.devnull, os.O_RDWR)) > 2:  # somebody was faster
                os.close(fd)

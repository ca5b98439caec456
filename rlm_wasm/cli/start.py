"""The entry point of the command: before it imports anything, Ctrl-C and a foreign system are one line."""

from __future__ import annotations

import sys

from rlm_wasm.cli import early_interrupt
from rlm_wasm.system.platforms import not_supported


def entry(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    early_interrupt.catch()
    told = not_supported(sys.platform)
    if told is not None:
        sys.stderr.write("error: {}\nhint: {}\n".format(*told))
        sys.exit(2)
    from rlm_wasm.cli.main import entry as run

    run(arguments)

"""The command's entry point: before anything is imported, Ctrl-C is already one line and status 130."""

from __future__ import annotations

from rlm_wasm.cli import early_interrupt


def entry(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    early_interrupt.catch()
    from rlm_wasm.cli.main import entry as run

    run(arguments)

"""``rlm-wasm exec``: Python in a fresh session, its outcome as text or as one JSON document."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

import click

from rlm_wasm.cli import output
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import ExitCode, of_outcome
from rlm_wasm.cli.image_option import image_option, with_image
from rlm_wasm.cli.inputs import STDIN, InputOptions, input_options, read_files, read_source
from rlm_wasm.cli.out_folder import LEFT_IN, copy_and_tell, look_at
from rlm_wasm.cli.preload import preload_guest
from rlm_wasm.errors import GuestError, GuestException
from rlm_wasm.outcomes import SessionState

if TYPE_CHECKING:
    from rlm_wasm.api.sandbox import SandboxSession
    from rlm_wasm.results import CellResult


@click.command("exec")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--policy", "policy_name", default="standard", show_default=True, help="A built-in policy or a file."
)
@image_option
@input_options("An input for the guest.")
@click.option("--in", "files", multiple=True, metavar="PATH", help="A file or folder for /inputs.")
@click.option("--out", "folder", metavar="DIR", help="Copy what the code leaves in /out into DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def execute(
    file: str,
    policy_name: str,
    image: str | None,
    inputs: InputOptions,
    files: tuple[str, ...],
    folder: str | None,
    as_json: bool,
) -> int:
    """Run the Python in FILE (or standard input) in a fresh session.

    The last expression's value is shown. The exit status tells the outcome.
    """
    look_at(folder)
    preload_guest(policy_name, image=image)
    import anyio

    from rlm_wasm.api.sandbox import Sandbox
    from rlm_wasm.cli.interrupts import interruptible
    from rlm_wasm.engine.isolation import import_worker
    from rlm_wasm.policy.model import Policy

    policy = with_image(Policy.open(policy_name), image)
    import_worker(policy)
    ready()
    source = read_source(file, bytes_max=policy.cell.source_bytes_max)
    given = inputs.read(policy, stdin_taken=file == STDIN)
    given_files = read_files(files, inputs.choice(), policy)

    async def main() -> tuple[CellResult, int, str, bool]:
        async with Sandbox(policy) as sandbox, await sandbox.session() as session:
            for name, value in given.items():
                await session.load(name, value, file=given.file_names[name])
            for name, data in given_files.items():
                await session.write_file(f"/inputs/{name}", data)
            began = monotonic_ns()
            result = await interruptible(lambda: session.exec(source), session.interrupt)
            wall_ms = (monotonic_ns() - began) // 1_000_000
            bytes_max = policy.sandbox.files_bytes_max
            copied = folder is None or await _copy_out(session, result, Path(folder), bytes_max)
            return result, wall_ms, session.lockdown, copied

    result, wall_ms, lockdown, copied = anyio.run(main)
    if as_json:
        output.document(
            {
                "outcome": result.outcome.value,
                "session": result.session_state.value,
                "stdout": result.stdout,
                "stderr": result.stderr,
                "result": result.result,
                "fuel_used": result.fuel_used,
                "memory_peak_bytes": result.memory_peak_bytes,
                "wall_ms": wall_ms,
                "lockdown": lockdown,
                "error": None if result.error is None else _error_document(result.error),
            }
            | given.as_report()
        )
    else:
        output.untrusted(result.stdout)
        if result.result is not None:
            output.untrusted(result.result, newline=True)
        output.untrusted(result.stderr, err=True)
        if isinstance(result.error, GuestException):
            output.untrusted(result.error.traceback or str(result.error), err=True, newline=True)
        elif result.error is not None:
            output.failure(f"{result.outcome}: {result.error}")
    status = of_outcome(result.outcome)
    return int(ExitCode.USAGE if status is ExitCode.DONE and not copied else status)


async def _copy_out(session: SandboxSession, result: CellResult, folder: Path, bytes_max: int) -> bool:
    if result.session_state is SessionState.LOST:
        output.failure(f"the session is lost, and what the code left in {LEFT_IN} with it")
        return False
    import anyio

    from rlm_wasm.cli.interrupts import interruptible

    def copy() -> Awaitable[bool]:
        return copy_and_tell(session.list_files, session.read_file, folder, bytes_max=bytes_max)

    # Ctrl-C ends the copying, and what the code gave is shown.
    with anyio.CancelScope() as scope:
        return await interruptible(copy, scope.cancel)
    return False


def _error_document(error: GuestError) -> dict[str, str | int | None]:
    if isinstance(error, GuestException):
        return {"type": error.type_name, "message": error.guest_message, "traceback": error.traceback}
    return {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": error.traceback or None,
        "key": error.key,
        "limit": error.limit,
    }

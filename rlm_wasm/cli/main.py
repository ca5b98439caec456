"""``rlm-wasm``: the commands, and the one place where an error becomes an exit status."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys
from typing import Any, Final, TextIO

import click

from rlm_wasm import __version__
from rlm_wasm.cli.early_interrupt import ready
from rlm_wasm.cli.exit_codes import ExitCode
from rlm_wasm.cli.output import failure
from rlm_wasm.errors import InternalError, RlmWasmError

# A command's first second makes many objects and no garbage.
gc.set_threshold(50_000, 20, 100)

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# Loaded when they are asked for: `--help` should not wait for a WebAssembly engine.
_COMMANDS: Final = {
    "ask": ("rlm_wasm.cli.ask", "ask", "Answer a question about files, with what the environment has."),
    "run": ("rlm_wasm.cli.run", "run", "Answer a question about an input of any size."),
    "replay": ("rlm_wasm.cli.replay", "replay", "Repeat a recorded run and say where it differs."),
    "exec": ("rlm_wasm.cli.execute", "execute", "Run Python in a fresh session."),
    "mcp": ("rlm_wasm.cli.mcp", "mcp", "Serve sessions and questions to MCP clients."),
    "guest": ("rlm_wasm.cli.guest", "guest", "Build, verify and describe the guest."),
    "policy": ("rlm_wasm.cli.policy", "policy", "Begin and check policy files, show the limits in force."),
    "cache": ("rlm_wasm.cli.cache", "cache", "Show, clean and share what is kept on disk."),
    "doctor": ("rlm_wasm.cli.doctor", "doctor", "Say what this machine can do."),
    "bench": ("rlm_wasm.cli.bench", "bench", "Measure this machine."),
}

# These import the sandbox when they run, while the guest is being loaded, and call `ready` themselves.
_IMPORT_LATER: Final = ("ask", "run", "replay", "exec", "mcp")


class _Commands(click.Group):
    """A group that imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name)
        if found is None:
            return None
        command: click.Command = getattr(importlib.import_module(found[0]), found[1])
        if cmd_name not in _IMPORT_LATER:
            ready()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rlm-wasm")
def main() -> None:
    """The secure runtime for Recursive Language Models.

    Model-written Python runs in CPython compiled to WebAssembly, with fuel, memory and output
    caps, no file of yours and no network; its llm_query calls go through one budget.

    Exit status: 0 done; 1 the guest's exception, no answer, or a replay that differs; 2 usage, policy,
    or what this machine lacks; 3 a limit; 4 boundary violation, trap or lost worker; 70 a bug of ours;
    130 interrupted.
    """


def entry(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    open_standard_streams()
    status = invoke(arguments)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # What could not be written is still buffered, and Python would try again on its way out.
        _drop(sys.stdout)
        status = status or ExitCode.USAGE
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)
    sys.exit(status)


def _drop(stream: TextIO) -> None:
    """Let whatever is still to be written to a standard stream go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_standard_streams() -> None:
    """Put /dev/null where the caller closed a standard stream: no other file may get its number.

    What ends the process in an emergency writes to number 2, whatever that is.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def invoke(arguments: list[str] | None = None) -> int:
    """Run the command line and return its status; errors go to stderr."""
    try:
        result: Any = main.main(args=arguments, prog_name="rlm-wasm", standalone_mode=False)
        return int(result or 0)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.Abort:
        failure("interrupted")
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except KeyboardInterrupt:
        failure("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; a second failing flush at exit would only repeat that.
        _drop(sys.stdout)
        return ExitCode.GUEST
    except OSError as error:
        # A file of ours is its owner's to report; what comes up to here is a full disk under the output.
        if error.errno not in _NO_SPACE:
            return _our_bug_or_a_shortage(error)
        _drop(sys.stdout)
        failure(f"cannot write the output: {error.strerror}")
        return ExitCode.USAGE
    except RlmWasmError as error:
        failure(error.message, error.hint)
        return ExitCode.INTERNAL if isinstance(error, InternalError) else ExitCode.USAGE
    except Exception as error:  # noqa: BLE001 - the last line of defence; status 70 says "our bug"
        return _our_bug_or_a_shortage(error)


def _our_bug_or_a_shortage(error: Exception) -> int:
    # Here and not above: it is wanted in the last moment only.
    from rlm_wasm.system.os_errors import is_shortage, told

    if is_shortage(error):
        failure(f"this machine gives the command too little: {told(error)}")
        return ExitCode.USAGE
    failure(f"internal error: {type(error).__name__}: {error}", "please report this")
    if os.environ.get("RLM_WASM_TRACEBACK"):
        raise error
    return ExitCode.INTERNAL


if __name__ == "__main__":
    entry()

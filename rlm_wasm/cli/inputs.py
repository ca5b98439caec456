"""Reading what the user names on the command line, and the options that say how."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.engine.contexts import InputValue
    from rlm_wasm.policy.model import Policy

STDIN: Final = "-"
_KINDS: Final = ("auto", "text", "json", "jsonl", "bytes")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """The inputs of a command and how they are to be read, as the command line has them."""

    contexts: tuple[str, ...]
    kind: str
    encoding: str | None

    def read(self, policy: Policy, *, stdin_taken: bool = False) -> Inputs:
        """Read them. `stdin_taken` says that standard input was something else already.

        Raises:
            UsageError: as `rlm_wasm.Inputs.read`.
        """
        from rlm_wasm.api.inputs import Inputs

        pairs = self._pairs()
        if stdin_taken and any(file == STDIN for _, file in pairs):
            raise UsageError("standard input can be read once only")
        return Inputs.read_pairs(policy, pairs, kind=self.kind, encoding=self.encoding)

    def read_again(self, policy: Policy, types: Mapping[str, str]) -> dict[str, InputValue]:
        """Read inputs of a recorded run, each as what it was then, by the type that it had in the guest."""
        from rlm_wasm.api.inputs import Inputs
        from rlm_wasm.host.input_file import LAZY_TYPES, InputFile
        from rlm_wasm.inputs.variable_names import named

        pairs = self._pairs()
        kinds = {"str": "text", "bytes": "bytes"}
        found: dict[str, InputValue] = {}
        for name, (_, file) in zip(named([name for name, _ in pairs]), pairs, strict=True):
            if types.get(name, "") in LAZY_TYPES:
                found[name] = InputFile(file, as_bytes=types[name] == "LazyBytes")
                continue
            kind = kinds.get(types.get(name, ""), self.kind)
            found |= Inputs.read_pairs(policy, [(name, file)], kind=kind, encoding=self.encoding)
        return found

    def _pairs(self) -> list[tuple[str | None, str]]:
        from rlm_wasm.inputs.variable_names import split

        return [split(argument) for argument in self.contexts]


def input_options(about: str | None) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of inputs, and itself their `InputOptions` as `inputs`.

    `about` is what is said of the option that names one; None: arguments do, and there is no such option.
    """
    named = (
        click.argument("contexts", nargs=-1, metavar="[[NAME=]FILE|-]…")
        if about is None
        else click.option("--context", "contexts", multiple=True, metavar="[NAME=]FILE|-", help=about)
    )

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @named
        @click.option(
            "--as", "kind", type=click.Choice(_KINDS), default="auto",
            help="What inputs are given as; auto: JSON and JSON lines as values, all else as text.",
        )  # fmt: skip
        @click.option("--bytes", "as_bytes", is_flag=True, help="The same as --as bytes: as they are.")
        @click.option(
            "--encoding", metavar="NAME[,NAME…]",
            help="Encodings to try on texts without a byte-order mark, in the place of UTF-8.",
        )  # fmt: skip
        @wraps(command)
        def wrapped(
            *, contexts: tuple[str, ...], kind: str, as_bytes: bool, encoding: str | None, **others: Any
        ) -> int:
            return command(inputs=InputOptions(contexts, "bytes" if as_bytes else kind, encoding), **others)

        return wrapped

    return decorate


def read_files(arguments: tuple[str, ...], *, bytes_max: int) -> dict[str, bytes]:
    """Return the contents of files by their names without folders.

    Raises:
        UsageError: a file is missing, unreadable or too large, or two have one name.
    """
    from rlm_wasm.inputs.open_file import read_whole

    files: dict[str, bytes] = {}
    for argument in arguments:
        name = os.path.basename(argument)
        if name in files:
            raise UsageError(f"two files are called {name!a}")
        files[name] = read_whole(argument, bytes_max, "sandbox.files_bytes_max")
    return files


def read_source(file: str, *, bytes_max: int) -> str:
    """Return the Python in a file, or in standard input for ``-``; UsageError as for inputs."""
    from rlm_wasm.inputs.open_file import read_whole, shown

    data = read_whole(file, bytes_max, "cell.source_bytes_max")
    try:
        # Editors mark a file as UTF-8 with three bytes that are no part of its text; Python passes over them.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{shown(file)} is not UTF-8 text (byte {error.start})", hint="save it as UTF-8"
        ) from error


def spare_what_is_read(events_file: str | None, *files: str | None, contexts: tuple[str, ...] = ()) -> None:
    """Raise UsageError if the event log that is to be written is one of the files that are read."""
    from rlm_wasm.inputs.variable_names import split

    if events_file is None or not os.path.isfile(events_file):
        return
    for file in (*files, *(split(argument)[1] for argument in contexts)):
        if file and os.path.exists(file) and os.path.samefile(events_file, file):
            raise UsageError(f"--events {events_file} is a file that this command reads; name another one")

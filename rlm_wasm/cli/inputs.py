"""Reading what the user names on the command line, and the options that say how."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click

from rlm_wasm.cli.converting import Converting
from rlm_wasm.cli.output import note
from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.api.inputs import Inputs
    from rlm_wasm.inputs.folder_choice import FolderChoice
    from rlm_wasm.policy.model import Policy

STDIN: Final = "-"
_KINDS: Final = ("auto", "text", "json", "jsonl", "bytes")


@dataclass(frozen=True, slots=True)
class InputOptions:
    """The inputs of a command and how they are to be read, as the command line has them."""

    contexts: tuple[str, ...]
    kind: str
    encoding: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    everything: bool

    def read(self, policy: Policy, *, stdin_taken: bool = False) -> Inputs:
        """Read them. `stdin_taken` says that standard input was something else already.

        Raises:
            UsageError: as `rlm_wasm.Inputs.read`.
        """
        from rlm_wasm.api.inputs import Inputs
        from rlm_wasm.inputs.documents import told_of_facts
        from rlm_wasm.inputs.folder_input import told_of_left_out
        from rlm_wasm.inputs.open_file import shown

        pairs = self._pairs()
        if stdin_taken and any(file == STDIN for _, file in pairs):
            raise UsageError("standard input can be read once only")
        with Converting() as converting:
            read = Inputs.read_pairs(
                policy,
                pairs,
                kind=self.kind,
                encoding=self.encoding,
                choice=self.choice(),
                on_converting=converting,
            )
        for item in read.items_read:
            if told := told_of_left_out(item.source, len(item.files), item.left_out):
                note(told)
            for each in item.files:
                if each.document is not None and each.document.parts_without_text:
                    note(f"{shown(each.path)} is {told_of_facts(each.document)}")
        return read

    def read_again(self, policy: Policy, types: Mapping[str, str]) -> Inputs:
        """Read inputs of a recorded run, each as what it was then, by the type that it had in the guest."""
        from rlm_wasm.api.inputs import Inputs

        with Converting() as converting:
            return Inputs.read_pairs(
                policy,
                self._pairs(),
                kind=self.kind,
                encoding=self.encoding,
                choice=self.choice(),
                types=types,
                on_converting=converting,
            )

    def choice(self) -> FolderChoice:
        """Return what of folders is wanted. Raises UsageError for what is no pattern."""
        from rlm_wasm.inputs.folder_choice import FolderChoice

        return FolderChoice(self.include, self.exclude, self.everything)

    def _pairs(self) -> list[tuple[str | None, str]]:
        from rlm_wasm.inputs.variable_names import split

        return [split(argument) for argument in self.contexts]


def input_options(about: str | None) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of inputs, and itself their `InputOptions` as `inputs`.

    `about` is what is said of the option that names one; None: arguments do, and there is no such option.
    """
    named = (
        click.argument("contexts", nargs=-1, metavar="[[NAME=]PATH|-]…")
        if about is None
        else click.option("--context", "contexts", multiple=True, metavar="[NAME=]PATH|-", help=about)
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
        @click.option("--include", multiple=True, metavar="PATTERN", help="Of a folder, these files alone.")
        @click.option("--exclude", multiple=True, metavar="PATTERN", help="Of a folder, not these files.")
        @click.option(
            "--all", "everything", is_flag=True,
            help="Of a folder, also .git, .env* and what its .gitignore files name.",
        )  # fmt: skip
        @wraps(command)
        def wrapped(*, kind: str, as_bytes: bool, **others: Any) -> int:
            own = {
                field.name: others.pop(field.name) for field in fields(InputOptions) if field.name != "kind"
            }
            return command(inputs=InputOptions(kind="bytes" if as_bytes else kind, **own), **others)

        return wrapped

    return decorate


def read_files(arguments: tuple[str, ...], choice: FolderChoice, policy: Policy) -> dict[str, bytes]:
    """Return the contents of files, and of the files of folders, by their names below /inputs.

    Raises:
        UsageError: one is missing, unreadable or too large, they are too many, or two have one name.
    """
    from rlm_wasm.inputs.folder_input import FILES_KEY, read_folder_files, told_of_left_out
    from rlm_wasm.inputs.open_file import read_whole

    bytes_max = policy.sandbox.files_bytes_max
    files: dict[str, bytes] = {}
    names = set()
    for argument in arguments:
        if os.path.isdir(argument):
            name, found, left_out = read_folder_files(
                argument,
                choice,
                policy.input_limits(),
                bytes_max=bytes_max,
                files_max=policy.sandbox.files_max,
            )
            if told := told_of_left_out(argument, len(found), left_out):
                note(told)
            files |= {f"{name}/{path}": data for path, data in found.items()}
        else:
            name = os.path.basename(argument)
            files[name] = read_whole(argument, bytes_max, FILES_KEY)
        if name in names:
            raise UsageError(f"two files or folders are called {name!a}")
        names.add(name)
    return files


def read_source(file: str, *, bytes_max: int) -> str:
    """Return the Python in a file, or in standard input for ``-``; UsageError as for inputs."""
    return read_text(file, bytes_max, "cell.source_bytes_max")


def read_text(file: str, bytes_max: int, key: str) -> str:
    """Return the text in a file, or in standard input for ``-``, of which `key` says how long it may be.

    Raises UsageError as for inputs.
    """
    from rlm_wasm.inputs.open_file import read_whole, shown

    data = read_whole(file, bytes_max, key)
    try:
        # Editors mark a file as UTF-8 with three bytes that are no part of its text; Python passes over them.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{shown(file)} is not UTF-8 text (byte {error.start})", hint="save it as UTF-8"
        ) from error


def spare_what_is_read(events_file: str | None, *files: str | None, inputs: Inputs) -> None:
    """Raise UsageError if the event log that is to be written is one of the files that are read.

    Those are the files of folders too, and what standard input comes from.
    """
    if events_file is None or not os.path.isfile(events_file):
        return
    written = os.stat(events_file)
    given = [path for item in inputs.items_read for path in item.paths]
    read = [_status(sys.stdin.fileno() if path == STDIN else path) for path in given]
    for status in (*read, *(_status(file) for file in files if file)):
        if status is not None and os.path.samestat(written, status):
            raise UsageError(f"--events {events_file} is a file that this command reads; name another one")


def _status(file: str | int) -> os.stat_result | None:
    try:
        return os.stat(file)
    except (OSError, ValueError):  # the name of a policy that is built in, or it is gone
        return None

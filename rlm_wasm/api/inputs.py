"""`Inputs`: the files that a user names, read as the inputs of a run or a session."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, Self, TypeAlias

from rlm_wasm.api.arguments import check_policy
from rlm_wasm.api.documents import DocumentConverter
from rlm_wasm.engine.contexts import InputValue, apart, check_name
from rlm_wasm.errors import UsageError
from rlm_wasm.host.input_file import LAZY_TYPES, InputFile
from rlm_wasm.inputs.documents import OnConverting
from rlm_wasm.inputs.file_input import Reading, in_parts, stays_where_it_is
from rlm_wasm.inputs.folder_choice import FolderChoice
from rlm_wasm.inputs.given import InputRead
from rlm_wasm.inputs.kinds import InputKind, checked_kind
from rlm_wasm.inputs.open_file import STDIN, Opener
from rlm_wasm.inputs.place import read_input_at
from rlm_wasm.inputs.text_encoding import checked_encodings
from rlm_wasm.inputs.variable_names import named
from rlm_wasm.policy.model import Policy

Path: TypeAlias = str | os.PathLike[str]
# One path, several, or several by the names of their variables.
InputPaths: TypeAlias = Path | Sequence[Path] | Mapping[str, Path]
_KINDS_BY_TYPE: Final = {"str": InputKind.TEXT, "bytes": InputKind.BYTES}


class Inputs(Mapping[str, InputValue]):
    """Inputs by the names of their variables, as they were read from files.

    A mapping: for `Runtime.ask(question, inputs, file_names=inputs.file_names)`, whose guests have each as a
    file of its name, and for `SandboxSession.load`, one by one. `items_read` has the files of each.
    """

    def __init__(self, items_read: Sequence[InputRead], opener: Opener = os.open) -> None:
        self.items_read: Final = tuple(items_read)
        self._values = {item.name: _value(item, opener) for item in items_read}

    @classmethod
    def read(
        cls,
        policy: Policy,
        files: InputPaths,
        *,
        kind: str = "auto",
        encoding: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        everything: bool = False,
        on_converting: OnConverting | None = None,
    ) -> Self:
        """Read `files`: one path, several, or a mapping of variable names to paths; ``-`` is standard input.

        Those without a name are called ``context``, ``context_2`` and so on. What is packed (.gz, .zst, .bz2,
        .xz) is unpacked. A byte-order mark says an encoding and is no part of the text; without one it is
        UTF-8, or what `encoding` names, several of which (``"utf-8,cp1252"``) are tried in their order.
        One that is larger than `sandbox.context_bytes_max` and neither packed nor in another encoding stays
        where it is, as an `InputFile`.
        `kind` is ``auto`` (JSON and JSON lines as values, by the end of the name, all else as text),
        ``text``, ``json``, ``jsonl`` or ``bytes``. `docs/inputs.md` has a table of what each file becomes.

        A folder, or a path with wildcards, is one input: a dict of its files' texts by their paths. Links,
        sockets, pipes and devices in it are left out, and so are `.git`, `.env*` and what its .gitignore
        files name, unless `everything` is wanted. `include` and `exclude` are patterns as those have them.

        A PDF, .docx, .xlsx or .pptx is turned into text, in a guest session of its own under limits of the
        table [inputs], as `docs/inputs.md` says. That can take minutes, in which this call waits, also where
        an event loop runs (there: ``await anyio.to_thread.run_sync(Inputs.read, policy, files)``).
        `on_converting` is told of each how far it is: file, how much of how much; on another thread.

        Raises:
            InputTooLarge: a file or folder is larger than `sandbox.context_bytes_max`, is packed more densely
                than `inputs.ratio_max`, takes too much memory to be unpacked, or has more files, entries or
                levels than the table [inputs] or `sandbox.files_max` allows, or too many to look each up in
                its .gitignore files.
            InputDamaged: a packed file does not unpack, or a document is damaged.
            InputNotConverted: a document is encrypted or has no text, or there is no image `data` to read it.
            InputNotText: a file is binary, or text in another encoding.
            InputError: a file cannot be read, changed meanwhile, or is no JSON and was to be.
            UsageError: an argument is none of these; a name or standard input is used twice.
            LockdownError, PolicyError, Overloaded, HostExhausted, WorkerLost: of a document, as
                `Sandbox.session`.
        """
        check_policy(policy)
        choice = FolderChoice(_patterns(include), _patterns(exclude), everything)
        pairs = _pairs(files)
        return cls.read_pairs(
            policy, pairs, kind=kind, encoding=encoding, choice=choice, on_converting=on_converting
        )

    @classmethod
    def read_pairs(
        cls,
        policy: Policy,
        pairs: Sequence[tuple[str | None, str]],
        *,
        kind: str,
        encoding: str | None,
        choice: FolderChoice,
        types: Mapping[str, str] | None = None,
        on_converting: OnConverting | None = None,
        opener: Opener = os.open,
    ) -> Self:
        """Read files of which some were given a variable name, the others None. Raises as `read` does.

        A variable that `types` names is read as what it was in the guest of a recorded run. `opener` opens
        each file and folder, as that of the built-in `open` does.
        """
        names = named([name for name, _ in pairs])
        for name in names:
            check_name(name)
        if [file for _, file in pairs].count(STDIN) > 1:
            raise UsageError("standard input can be read once only")
        with DocumentConverter(policy, on_converting) as convert:
            reading = Reading(
                policy.sandbox.context_bytes_max,
                policy.input_limits(),
                checked_kind(kind),
                checked_encodings(encoding),
                choice,
                policy.sandbox.files_max,
                convert,
                opener,
            )
            return cls(
                [
                    _read(name, file, reading, (types or {}).get(name, ""))
                    for name, (_, file) in zip(names, pairs, strict=True)
                ],
                opener,
            )

    def __getitem__(self, name: str) -> InputValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def file_names(self) -> dict[str, str]:
        """What each input is called in the guest's /inputs, by variable name: as its file is here.

        No two are the same: of ``a/x.csv`` and ``b/x.csv`` the second is ``x-2.csv``.
        """
        return apart({item.name: item.file for item in self.items_read})

    @property
    def notes(self) -> dict[str, str]:
        """What there is to say of each input besides type and size, by variable name; no model is told it."""
        return {item.name: item.note for item in self.items_read}

    def as_report(self) -> dict[str, Any]:
        """Return what was read, without contents, as plain data under the key ``inputs``; nothing of none."""
        read = [
            {
                "name": item.name,
                "kind": item.kind,
                "source": item.source,
                "files": [asdict(file) for file in item.files],
            }
            | ({"left_out": _left_out(item)} if item.kind == "folder" else {})
            for item in self.items_read
        ]
        return {"inputs": read} if read else {}


def _read(name: str, file: str, reading: Reading, type_name: str) -> InputRead:
    if type_name in LAZY_TYPES:
        as_bytes = type_name == "LazyBytes"
        return in_parts(
            name, file, InputFile(file, as_bytes=as_bytes, opener=reading.opener).size, as_bytes=as_bytes
        )
    reading = replace(reading, kind=_KINDS_BY_TYPE.get(type_name, reading.kind))
    return stays_where_it_is(name, file, reading) or read_input_at(name, file, reading)


def _value(item: InputRead, opener: Opener) -> InputValue:
    if item.value is None:
        return InputFile(item.source, as_bytes=item.kind == "bytes", opener=opener)
    return item.value


def _left_out(item: InputRead) -> list[dict[str, Any]]:
    return [{"reason": reason} | asdict(found) for reason, found in item.left_out.items()]


def _patterns(patterns: object) -> tuple[str, ...]:
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise UsageError("include and exclude are several patterns, such as a list of them")
    return tuple(map(str, patterns))


def _pairs(files: InputPaths) -> list[tuple[str | None, str]]:
    if isinstance(files, str | os.PathLike):
        return [(None, _path(files))]
    if isinstance(files, Mapping):
        return [(name, _path(file)) for name, file in files.items()]
    if isinstance(files, Sequence) and not isinstance(files, bytes | bytearray):
        return [(None, _path(file)) for file in files]
    raise UsageError(f"files are paths, or a mapping of names to paths, not a {type(files).__name__}")


def _path(file: object) -> str:
    if isinstance(file, str | os.PathLike):
        return os.fsdecode(file)
    raise UsageError(f"a path is a str or a Path, not a {type(file).__name__}")

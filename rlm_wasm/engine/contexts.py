"""The inputs of a run as the model is told about them, without their contents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count, islice
from keyword import iskeyword
from typing import Final, TypeAlias
from unicodedata import normalize

from rlm_wasm.conversation.prompts import FILES_SHOWN_MAX, PEEK_CHARS_MAX, ContextFacts, FileFacts
from rlm_wasm.document_text import told_of
from rlm_wasm.errors import UsageError
from rlm_wasm.folder_text import FOLDER_TYPE, FolderText
from rlm_wasm.host.input_file import InputChanged, InputFile
from rlm_wasm.protocol.session_names import RESERVED
from rlm_wasm.values import JsonText

DEFAULT_NAME: Final = "context"
# Characters or bytes from which a session's origin is taken anew after loading them: else what is kept of
# each state would have to have room for them.
REBASE_FROM_UNITS: Final = 1 << 20
# A mapping is always one of names; each value may be anything that `rlm_wasm.values` takes.
Contexts: TypeAlias = (
    str | bytes | InputFile | int | float | bool | Mapping[str, object] | Sequence[object] | None
)
# What a session loads.
InputValue: TypeAlias = str | bytes | InputFile
# Of a file that stays where it is, so much is read for the model to see.
_PEEK_BYTES: Final = 4 * PEEK_CHARS_MAX
# Whose first line names what is in the others.
_TABLES: Final = (".csv", ".tsv")
_IS_NAMES: Final = "a mapping gives inputs by name; to give one as a value: {'context': mapping}"


def named_contexts(contexts: Contexts) -> dict[str, InputValue]:
    """Return the inputs by variable name; a single one is called ``context``.

    What is neither str nor bytes nor an InputFile comes as a `JsonText`, which the guest makes a value of.

    Raises:
        UsageError: a name is no Python identifier, or a value has no JSON form (NoJsonForm).
    """
    if contexts is None:
        return {}
    named = dict(contexts) if isinstance(contexts, Mapping) else {DEFAULT_NAME: contexts}
    for name in named:
        check_name(name, hint=_IS_NAMES if isinstance(contexts, Mapping) else None)
    return {name: as_input(name, value) for name, value in named.items()}


def as_input(name: str, value: object) -> InputValue:
    """Return what a session loads for a value: a str, bytes or file, or the JSON of anything else.

    Raises NoJsonForm.
    """
    return value if isinstance(value, str | bytes | InputFile) else JsonText.of(value, name)


def files_of(named: Mapping[str, InputValue], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what each input is called in /inputs, by variable: no two the same.

    It is what is `given`, or as its file is, or as its variable where it is of none.
    """
    return apart(
        {
            name: (given or {}).get(name) or (value.name if isinstance(value, InputFile) else name)
            for name, value in named.items()
        }
    )


def apart(names: Mapping[str, str]) -> dict[str, str]:
    """Return names of files of which no two are the same: of two x.csv the second is x-2.csv."""
    taken, used, made = set(names.values()), set[str](), dict[str, str]()
    for variable, name in names.items():
        if name in used:
            stem, dot, ending = name.partition(".") if not name.startswith(".") else (name, "", "")
            name = next(n for i in count(2) if (n := f"{stem}-{i}{dot}{ending}") not in taken)
            taken.add(name)
        used.add(name)
        made[variable] = name
    return made


def read_input(name: str, text: str, type_name: str) -> str | bytes:
    """Return the input of this type whose text was recorded, or is given again. Raises NoJsonForm."""
    if type_name == FOLDER_TYPE:
        return FolderText.recorded(text, name)
    return text if type_name in ("str", "bytes") else JsonText.recorded(text, name)


def check_name(name: object, *, hint: str | None = None) -> None:
    """Raise UsageError for a name under which no cell would find an input."""
    if not isinstance(name, str):
        raise UsageError(f"a variable name is a str, not a {type(name).__name__}", hint=hint)
    # Python reads ﬁ as fi, and so would not find a variable whose name is spelt with the former.
    if not name.isidentifier() or iskeyword(name) or normalize("NFKC", name) != name:
        raise UsageError(f"{name!a} is not a variable name", hint=hint)
    if name in RESERVED or (name.startswith("__") and name.endswith("__")):
        raise UsageError(f"{name} is a name of the session's own; call the input something else")


def describe(
    named: Mapping[str, InputValue], files: Mapping[str, str] | None = None
) -> tuple[ContextFacts, ...]:
    """Return what the model is told: name, type, length, and the first few hundred characters.

    `files` is what each is called in /inputs, where that is known.
    """
    files = files_of(named) if files is None else files
    return tuple(
        ContextFacts(
            name=name,
            type_name=type_name(value),
            length=length(value),
            unit=_unit(value),
            peek=_peek(value),
            size=0 if isinstance(value, InputFile) else len(value),
            file=files[name],
            lazy=isinstance(value, InputFile),
            what=told_of(files[name], value) if type(value) is str else "",
            listing=_listing(value) if isinstance(value, FolderText) else (),
        )
        for name, value in named.items()
    )


def type_name(value: InputValue) -> str:
    """Return the type that an input has in the guest."""
    return value.type_name if isinstance(value, JsonText | InputFile) else type(value).__name__


def recorded_type(value: InputValue) -> str:
    """Return the type that a log has of an input: by it a folder is told from a dict."""
    return FOLDER_TYPE if isinstance(value, FolderText) else type_name(value)


def length(value: InputValue) -> int:
    """Return the length that an input has in the guest, of a file in bytes; of what has none, 1."""
    return value.length if isinstance(value, JsonText) else len(value)


def copied_size(values: Iterable[InputValue]) -> int:
    """Return how many characters and bytes of inputs are in the guest's memory."""
    return sum(0 if isinstance(value, InputFile) else len(value) for value in values)


def _listing(folder: FolderText) -> tuple[FileFacts, ...]:
    return tuple(
        FileFacts(path, len(text), _first_line(path, text), told_of(path, text))
        for path, text in islice(folder.files.items(), FILES_SHOWN_MAX)
    )


def _first_line(path: str, text: str) -> str:
    is_table = path.lower().rpartition("/")[2].removesuffix(".gz").endswith(_TABLES)
    return text[:PEEK_CHARS_MAX].partition("\n")[0].rstrip("\r") if is_table else ""


def _peek(value: InputValue) -> str:
    if isinstance(value, FolderText):
        return ""
    if isinstance(value, InputFile):
        try:
            head = value.read(0, _PEEK_BYTES)
        except (InputChanged, OSError):
            return ""  # whoever reads it is told
        return repr(head[: PEEK_CHARS_MAX // 4]) if value.as_bytes else _text_of(head)
    return value[:PEEK_CHARS_MAX] if isinstance(value, str) else repr(value[: PEEK_CHARS_MAX // 4])


def _text_of(head: bytes) -> str:
    return head.decode("utf-8", "replace")[:PEEK_CHARS_MAX]


def _unit(value: InputValue) -> str:
    if isinstance(value, JsonText):
        return "items" if value.type_name in ("list", "dict") else "value"
    return "characters" if isinstance(value, str) else "bytes"

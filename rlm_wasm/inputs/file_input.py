"""One file as an input: read, unpacked, decoded and, where it is to be one, made a value."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final, NamedTuple

from rlm_wasm.document_text import DocumentKind, kind_of_name, text_name
from rlm_wasm.errors import InputError
from rlm_wasm.inputs import documents
from rlm_wasm.inputs.documents import MARK_WITHIN_BYTES, ConvertDocument, document_kind
from rlm_wasm.inputs.folder_choice import ANY_FILE, FolderChoice
from rlm_wasm.inputs.given import FileRead, InputRead
from rlm_wasm.inputs.json_values import NoValue, json_value
from rlm_wasm.inputs.kinds import InputKind, bare_name, is_table, kind_by_name
from rlm_wasm.inputs.open_file import STDIN, Opener, OpenFile, changed, shown, too_large
from rlm_wasm.inputs.packing import HEAD_BYTES, packing_of, unpacked
from rlm_wasm.inputs.table_header import header_note
from rlm_wasm.inputs.text_encoding import LOOKED_AT_BYTES, decoded, encoding_by_mark, is_binary
from rlm_wasm.limits import InputLimits
from rlm_wasm.protocol.text_layout import encoding_of

BYTES_KEY: Final = "sandbox.context_bytes_max"
_NAME_CHARS_MAX: Final = 200
# As what a file can be given that is not read whole.
_IN_PARTS: Final = frozenset({InputKind.AUTO, InputKind.TEXT, InputKind.BYTES})
# Without a wait for a writer, should it be a pipe by now.
_REGULAR: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Reading:
    """How inputs are read: as what, in which encodings, within which limits."""

    bytes_max: int
    limits: InputLimits
    kind: InputKind = InputKind.AUTO
    encodings: tuple[str, ...] = ()
    choice: FolderChoice = ANY_FILE
    # How many files and folders a guest may have.
    guest_files_max: int = 0
    # What turns documents into text. Without it they are no text.
    convert: ConvertDocument | None = None
    opener: Opener = os.open

    def document(self, file: str, head: bytes) -> DocumentKind | None:
        """Return what document a file is that begins so; None: none that is turned into text."""
        return None if self.convert is None else document_kind(bare_name(file), head)


class TextRead(NamedTuple):
    """A file's text, and what was read for it."""

    text: str
    read: FileRead


def read_file_input(name: str, file: str, reading: Reading) -> InputRead:
    """Read a file that a user named as the input `name`.

    Raises:
        InputError: it cannot be read. InputTooLarge, InputDamaged and InputNotText say why more closely.
        UsageError: its name is empty.
    """
    with OpenFile.named(file, reading.opener) as opened:
        if reading.kind is InputKind.BYTES:
            data = b"".join(opened.pieces(reading.bytes_max, BYTES_KEY))
            read = FileRead(file, len(data), len(data), grew=opened.grew)
            return _input(name, file, data, "bytes", f"the bytes of {quoted(file)}", read)
        text, read = read_text(opened, reading, reading.bytes_max)
    return _valued(name, file, text, read, reading)


def stays_where_it_is(name: str, file: str, reading: Reading) -> InputRead | None:
    """Return what there is to say of a file that is too large for a guest to hold and can be read in parts.

    That is a regular file as it is, or of text in UTF-8: not packed, without a mark of another encoding. None
    for any other, which is read whole or refused.

    Raises:
        InputError: something else was put in its place meanwhile.
    """
    if reading.kind not in _IN_PARTS or reading.encodings or file == STDIN:
        return None
    try:
        # By its name first: a pipe is not to be opened twice, whoever writes to it would see it closed.
        if reading.opener is os.open and not stat.S_ISREG(os.stat(file).st_mode):
            return None
        descriptor = reading.opener(file, _REGULAR)
    except (OSError, ValueError):
        return None  # whoever reads it says what is wrong
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            if reading.opener is os.open:
                raise changed(file)
            return None  # looked at once, and it is a folder
        if found.st_size <= reading.bytes_max:
            return None
        head = OpenFile(file, descriptor, borrowed=True).head(LOOKED_AT_BYTES)
    finally:
        os.close(descriptor)
    is_bytes = reading.kind is InputKind.BYTES
    if not is_bytes and (
        is_binary(head)
        or encoding_by_mark(head) not in (None, "utf-8")
        or packing_of(file, head[:HEAD_BYTES]) is not None
        or kind_of_name(file) is not None
    ):
        return None
    return in_parts(name, file, found.st_size, as_bytes=is_bytes)


def in_parts(name: str, file: str, size: int, *, as_bytes: bool) -> InputRead:
    """Return what there is to say of a file that stays where it is."""
    note = f"{quoted(file)}, which stays where it is and is read a part at a time"
    read = FileRead(file, size, size, encoding=None if as_bytes else "utf-8")
    return InputRead(name, None, "bytes" if as_bytes else "text", file, base_name(file), note, (read,))


def read_text(opened: OpenFile, reading: Reading, bytes_max: int) -> TextRead:
    """Read the text of a file that is open, of at most `bytes_max` bytes unpacked. Raises as above."""
    file = opened.file
    head = opened.peek(MARK_WITHIN_BYTES)
    packing = packing_of(file, head[:HEAD_BYTES])
    # Of a packed file its name says how much may come out; what came out says what it is.
    named = None if reading.convert is None else kind_of_name(bare_name(file))
    is_document = named is not None if packing else reading.document(file, head) is not None
    if is_document:
        read_max = most = reading.limits.document_bytes_max
        key = documents.BYTES_KEY
    else:
        read_max, most, key = reading.bytes_max, bytes_max, BYTES_KEY
    pieces = opened.pieces(read_max, key)
    if packing is not None:
        ratio_max = reading.limits.ratio_max
        pieces = unpacked(packing, pieces, file, bytes_max=most, key=key, ratio_max=ratio_max)
    data = b"".join(pieces)
    document = reading.document(file, data[:MARK_WITHIN_BYTES])
    if document is not None:
        assert reading.convert is not None
        text, facts = reading.convert(file, document, data, bytes_max)
        encoding = None
    elif named is not None and not reading.encodings:
        raise documents.not_as_named(file, named, data[:MARK_WITHIN_BYTES])
    else:
        (text, encoding), facts = decoded(data, file, reading.encodings), None
    if (size := len(text) * encoding_of(text).bytes_per_unit) > bytes_max:
        raise too_large(file, bytes_max, BYTES_KEY, what=f"takes {size} bytes in the guest, more")
    word = None if packing is None else packing.word
    return TextRead(text, FileRead(file, opened.read_bytes, len(data), word, encoding, opened.grew, facts))


def called(name: str, read: FileRead) -> str:
    """Return what the file of a guest is called that has the text of the file of this name."""
    if read.document is None:
        return name
    return text_name(bare_name(name), DocumentKind[read.document.kind.upper()])


def quoted(file: str) -> str:
    """Return a file's name for a note: one line of bounded length, whatever it holds."""
    return shown(file) if file == STDIN else repr(base_name(file)[:_NAME_CHARS_MAX])


def base_name(file: str) -> str:
    """Return a file's real name, without folders."""
    return "stdin" if file == STDIN else os.path.basename(os.path.normpath(file))


def _valued(name: str, file: str, text: str, read: FileRead, reading: Reading) -> InputRead:
    wanted = kind_by_name(file) if reading.kind is InputKind.AUTO else reading.kind
    note = f"the text of {quoted(file)}"
    if read.document is not None:
        note += f", which is {documents.told_of_facts(read.document)}"
    if wanted is InputKind.TEXT:
        header = header_note(text) if is_table(file) else ""
        return _input(name, file, text, "text", f"{note}, {header}" if header else note, read)
    try:
        value = json_value(text, wanted, name, reading.limits.json_values_max)
    except NoValue as why:
        if reading.kind is not InputKind.AUTO:
            raise InputError(
                file, f"cannot give {shown(file)} as a value: {why}; --as text gives it as text"
            ) from why
        return _input(name, file, text, "text", f"{note}, as text because {why}", read)
    if reading.kind is InputKind.AUTO and value.type_name not in ("list", "dict"):
        return _input(name, file, text, "text", note, read)
    if len(value) > reading.bytes_max:
        if reading.kind is not InputKind.AUTO:
            raise too_large(
                file, reading.bytes_max, BYTES_KEY, what=f"takes {len(value)} bytes as a value, more"
            )
        return _input(name, file, text, "text", f"{note}, as text because it is too large for a value", read)
    what = "the values of the lines of" if wanted is InputKind.JSONL else "the value of the JSON in"
    return _input(name, file, value, wanted.value, f"{what} {quoted(file)}", read)


def _input(name: str, file: str, value: str | bytes, kind: str, note: str, read: FileRead) -> InputRead:
    return InputRead(name, value, kind, file, called(base_name(file), read), note, (read,))

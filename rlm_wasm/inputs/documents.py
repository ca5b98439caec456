"""PDF and Office documents as inputs: recognized here by how they begin, turned into text in a guest.

A parser of such a format is attack surface, and this process holds the keys: nothing of a document is parsed
here. What comes back is the word of a guest that the document may own by now, so it is checked like any: it
can be a wrong text, of bounded size, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from rlm_wasm.document_text import DocumentKind, kind_of_name
from rlm_wasm.errors import InputDamaged, InputError, InputNotConverted, InputTooLarge
from rlm_wasm.inputs.open_file import shown
from rlm_wasm.values import Value

# How much of a file's beginning tells what it is. What stands before a PDF's mark is no reader's concern.
MARK_WITHIN_BYTES: Final = 1_024
_PDF_MARK: Final = b"%PDF-"
# Office's documents are zip files, of which the name says what they are; an old or an encrypted one is none.
_ZIP_MARK: Final = b"PK\x03\x04"
_OLE_MARK: Final = b"\xd0\xcf\x11\xe0"
# More than any document has; a number that a guest says is shown to people.
PARTS_MAX: Final = 10_000_000
BYTES_KEY: Final = "inputs.document_bytes_max"
_SCAN: Final = ", such as a scan; give one that went through text recognition"
AS_IT_IS: Final = "--bytes gives it as it is"


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What a text was made of: the kind of document, how many parts it has, and how many have no text."""

    kind: str
    parts: int
    parts_without_text: int


class ConvertedDocument(NamedTuple):
    """The text of a document, and what there is to say of it."""

    text: str
    facts: DocumentFacts


class ConvertDocument(Protocol):
    """Turns a document into text, in a guest.

    Raises InputError: it has no text, is damaged, encrypted or takes more than the policy allows.
    """

    def __call__(
        self, file: str, kind: DocumentKind, data: bytes, bytes_max: int, /
    ) -> ConvertedDocument: ...


# Told how far the conversion of a document is: its name, how many of how many parts are done.
OnConverting = Callable[[str, int, int], None]


def document_kind(file: str, head: bytes) -> DocumentKind | None:
    """Return what document a file is that begins so; None: none that can be turned into text."""
    named = kind_of_name(file)
    if head.startswith(_PDF_MARK) or (named is DocumentKind.PDF and _PDF_MARK in head[:MARK_WITHIN_BYTES]):
        return DocumentKind.PDF
    if named is not DocumentKind.PDF and head.startswith(_ZIP_MARK):
        return named
    return None


def not_as_named(file: str, named: DocumentKind, head: bytes) -> InputError:
    """Return the error for a file that its name says is a document, and that does not begin like one."""
    if named is not DocumentKind.PDF and head.startswith(_OLE_MARK):
        return InputNotConverted(
            file,
            f"{shown(file)} is {named.called} that is encrypted, or of Office before 2007; save it without a "
            f"password as {named.suffixes[0]}",
        )
    return InputDamaged(file, f"{shown(file)} is not {named.called}, whatever its name says; {AS_IT_IS}")


def converted(
    file: str, kind: DocumentKind, told: Value, text: Value, limit: int, key: str | None
) -> ConvertedDocument:
    """Return what a guest says of a document and its text, checked: the gate for both.

    Raises:
        InputError: it says that there is no text, or what it says is none of what it could say.
    """
    if told == {"refused": "large"}:
        raise text_too_large(file, kind, limit, key)
    if isinstance(told, dict) and told.keys() == {"refused"}:
        raise refusal(file, kind, told["refused"])
    if not (isinstance(told, dict) and told.keys() == {"parts", "empty"} and isinstance(text, str)):
        raise _nonsense(file, kind)
    parts, empty = told["parts"], told["empty"]
    if not (_is_count(parts) and _is_count(empty) and empty <= parts and _is_text(text)):
        raise _nonsense(file, kind)
    return ConvertedDocument(text, DocumentFacts(kind.word, parts, empty))


def told_of_facts(facts: DocumentFacts) -> str:
    """Return what a document is, for people: its kind, its pages, and how many of these have no text."""
    kind = DocumentKind[facts.kind.upper()]
    without = f", {facts.parts_without_text} of them without text" if facts.parts_without_text else ""
    return kind.counted(facts.parts) + without


def refusal(file: str, kind: DocumentKind, reason: object) -> InputError:
    """Return the error for a document of which the guest says, by a word, that it has no text."""
    if reason == "encrypted":
        return InputNotConverted(
            file,
            f"{shown(file)} is {kind.called} that is encrypted; give a copy that opens without a password",
        )
    if reason == "empty":
        return InputNotConverted(
            file,
            f"{shown(file)} is {kind.called} with no text in it{_SCAN if kind is DocumentKind.PDF else ''}; "
            f"{AS_IT_IS}",
        )
    if reason == "damaged":
        return InputDamaged(file, f"{shown(file)} is {kind.called} that is damaged; {AS_IT_IS}")
    return _nonsense(file, kind)


def text_too_large(file: str, kind: DocumentKind, limit: int, key: str | None) -> InputTooLarge:
    """Return the error for a document whose text is larger than an input, or any such text, may be."""
    allowed = f"that {key} allows; raise that key in the policy, or" if key else "that it may be;"
    return InputTooLarge(
        file,
        f"the text of {shown(file)}, {kind.called}, is larger than the {limit} bytes {allowed} give a part "
        "of it",
        key=key,
        limit=limit,
    )


def takes_too_much(file: str, kind: DocumentKind, key: str, limit: int) -> InputTooLarge:
    """Return the error for a document that takes more than the policy allows for turning one into text."""
    return InputTooLarge(
        file,
        f"turning {shown(file)}, {kind.called}, into text takes more than the {limit} that {key} allows; "
        f"raise that key in the policy, or give a part of it; {AS_IT_IS}",
        key=key,
        limit=limit,
    )


def _nonsense(file: str, kind: DocumentKind) -> InputDamaged:
    return InputDamaged(
        file,
        f"{shown(file)} is {kind.called} that no text could be made of: what the guest said is no answer; "
        f"{AS_IT_IS}",
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= PARTS_MAX


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a pair, which no file of text has
        return False
    return "\0" not in text

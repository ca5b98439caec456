"""The text that a file's bytes are, decided by a stated rule, never by a guess.

The rule: a byte-order mark says the encoding, and is no part of the text. Without one, the encodings that the
user names are tried in their order, or else UTF-8 alone. What none of them reads is no text. Only a file for
which no encoding was named is looked at for being binary.
"""

from __future__ import annotations

import codecs
import contextlib
from typing import Final, NamedTuple

from rlm_wasm.errors import InputNotText, UsageError
from rlm_wasm.inputs.open_file import shown

DEFAULT: Final = ("utf-8",)
# The longer marks first: that of UTF-16 begins one of UTF-32.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Codecs of Python's that read a notation rather than a character set.
_NOTATIONS: Final = frozenset(
    {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "utf-7", "mbcs", "oem"}
)
# Where a NUL says that a file is no text.
LOOKED_AT_BYTES: Final = 8_192
_BEGINNINGS: Final = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive, or a document that is one"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xfd7zXZ\x00", "xz data"),
)
_WAY_OUT: Final = "--bytes gives it as bytes"


class DecodedText(NamedTuple):
    """A file's text and the encoding that it was in."""

    text: str
    encoding: str


def checked_encodings(names: str | None) -> tuple[str, ...]:
    """Return the encodings that a user named, separated by commas; none for None.

    Raises:
        UsageError: one is no encoding of text that Python knows.
    """
    found = []
    for name in (part.strip() for part in names.split(",")) if names is not None else ():
        known = None
        with contextlib.suppress(LookupError, ValueError):  # ValueError: a NUL
            with contextlib.suppress(UnicodeError):
                b"a".decode(name)  # a LookupError for what is no encoding of text
            known = codecs.lookup(name).name
        if known is None or known in _NOTATIONS or known.replace("-", "_") in _NOTATIONS:
            raise UsageError(
                f"{name[:100]!a} is no encoding of text; --encoding takes names such as latin-1, cp1252, "
                "utf-16-le or shift_jis"
            )
        found.append(known)
    return tuple(found)


def decoded(data: bytes, file: str, encodings: tuple[str, ...] = ()) -> DecodedText:
    """Return the text of a file, by the rule above. Raises InputNotText, which says what was tried."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return DecodedText(data[len(mark) :].decode(encoding), encoding)
            except UnicodeDecodeError:
                continue
    if not encodings and (kind := _binary(data)) is not None:
        raise InputNotText(file, f"{shown(file)} is {kind}, not text; {_WAY_OUT}")
    first = 0
    for number, encoding in enumerate(encodings or DEFAULT):
        try:
            return DecodedText(data.decode(encoding), encoding)
        except UnicodeDecodeError as error:
            first = first if number else error.start
        except UnicodeError:  # a codec of several bytes that does not say where
            pass
    tried = "UTF-8" if not encodings else " nor ".join(encodings)
    other = "another encoding" if encodings else "its encoding, such as cp1252 or shift_jis"
    raise InputNotText(
        file, f"{shown(file)} is not {tried} text (byte {first}); --encoding names {other}, and {_WAY_OUT}"
    )


def is_binary(head: bytes) -> bool:
    """Whether a file that begins so is no text, for whoever names no encoding."""
    return encoding_by_mark(head) is None and _binary(head) is not None


def encoding_by_mark(head: bytes) -> str | None:
    """Return the encoding that a file's byte-order mark says; None: it has none."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def _binary(data: bytes) -> str | None:
    """Return what a file is that is no text by its beginning; None of what may be text."""
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    head = data[:LOOKED_AT_BYTES]
    if b"\0" not in head:
        return None
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if zeros.count(0) * 2 > len(zeros) and head.count(0) == zeros.count(0):
            return f"perhaps UTF-16 without a mark (then: --encoding {encoding}), and else binary"
    return "binary"

"""PDF files made by code: what each test needs of one, written out as the format has it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence


def pdf(pages: Sequence[Sequence[str]], *, packed: bool = False, tail: bytes = b"") -> bytes:
    """Return a PDF with these pages, each of some lines; `tail` goes into its trailer."""
    bodies = []
    for lines in pages:
        shown = b" ".join(b"(%s) Tj T*" % _string(line) for line in lines)
        bodies.append(b"BT /F1 10 Tf 14 TL 50 750 Td " + shown + b" ET" if lines else b"")
    return pdf_of_contents(bodies, packed=packed, tail=tail)


def pdf_of_contents(bodies: Sequence[bytes], *, packed: bool = False, tail: bytes = b"") -> bytes:
    """Return a PDF whose pages have these content streams."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(bodies)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(bodies)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, body in enumerate(bodies):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * number)
        )
        objects.append(stream(zlib.compress(body, 9) if packed else body, packed=packed))
    return pdf_of(objects, tail=tail)


def stream(data: bytes, *, packed: bool = False) -> bytes:
    """Return an object that is a stream."""
    how = b" /Filter /FlateDecode" if packed else b""
    return b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(data), how, data)


def pdf_of(objects: Sequence[bytes], *, tail: bytes = b"") -> bytes:
    """Return a PDF of these objects, the first of which is its root."""
    made, places = bytearray(b"%PDF-1.4\n"), []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start, size = len(made), len(objects) + 1
    made += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    made += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, tail, start)
    return bytes(made)


def encrypted_pdf() -> bytes:
    """Return a PDF that says it is encrypted with a password that nobody has."""
    standard = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"11" * 32, b"22" * 32)
    return pdf([["secret"]], tail=b"/Encrypt %s /ID [<00> <00>]" % standard)


def _string(line: str) -> bytes:
    raw = line.encode("cp1252")
    for char in (b"\\", b"(", b")"):
        raw = raw.replace(char, b"\\" + char)
    return raw

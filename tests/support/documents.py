"""Documents made by code: what a test needs of a PDF or an Office file, written as the format has it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape


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


# -- Office ------------------------------------------------------------------------------------------------

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_A = "http://schemas.openxmlformats.org/drawingml/2006/main"
_P = "http://schemas.openxmlformats.org/presentationml/2006/main"
_S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    """Return a zip file of these parts."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def relations(targets: Mapping[str, tuple[str, str]]) -> str:
    """Return a part that names others: kind and place by id."""
    each = "".join(
        f'<Relationship Id="{id_}" Type="{_R}/{kind}" Target="{place}"/>'
        for id_, (kind, place) in targets.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}">{each}</Relationships>'


def paragraph(*runs: str) -> str:
    """Return a paragraph of a Word document: what begins with < as it is, all else as text."""
    inner = "".join(
        run if run.startswith("<") else f'<w:r><w:t xml:space="preserve">{escape(run)}</w:t></w:r>'
        for run in runs
    )
    return f'<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr>{inner}</w:p>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of a Word document, whose cells are paragraphs."""
    cells = ("".join(f"<w:tc>{cell}</w:tc>" for cell in row) for row in rows)
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def docx(body: str, *, footnotes: str = "", main: str = "word/document.xml", **more: str | bytes) -> bytes:
    """Return a Word document with this body."""
    named = {"r1": ("footnotes", "footnotes.xml")} if footnotes else {}
    space = f'xmlns:w="{_W}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": f'<Types xmlns="{_TYPES}"/>',
        "_rels/.rels": relations({"r1": ("officeDocument", main)}),
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
        "word/_rels/document.xml.rels": relations(named),
    }
    if footnotes:
        parts["word/footnotes.xml"] = f"<w:footnotes {space}>{footnotes}</w:footnotes>"
    return zipped(parts | more)


def pptx(slides: Sequence[Sequence[str]]) -> bytes:
    """Return a presentation whose slides have these lines; their parts lie in another order."""
    parts: dict[str, str | bytes] = {
        "_rels/.rels": relations({"r": ("officeDocument", "ppt/presentation.xml")})
    }
    named = {f"r{number}": ("slide", f"slides/slide{9 - number}.xml") for number in range(len(slides))}
    ids = "".join(f'<p:sldId id="{256 + number}" r:id="r{number}"/>' for number in range(len(slides)))
    space = f'xmlns:p="{_P}" xmlns:a="{_A}" xmlns:r="{_R}"'
    parts["ppt/presentation.xml"] = f"<p:presentation {space}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
    parts["ppt/_rels/presentation.xml.rels"] = relations(named)
    for (_, place), lines in zip(named.values(), slides, strict=True):
        text = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in lines)
        parts[f"ppt/{place}"] = f"<p:sld {space}><p:sp><p:txBody>{text}</p:txBody></p:sp></p:sld>"
    return zipped(parts)


def xlsx(sheets: Mapping[str, str], *, styles: str = "") -> bytes:
    """Return a workbook whose sheets have these rows, as they are written there."""
    ids = "".join(
        f'<sheet name="{escape(name)}" sheetId="{number}" r:id="r{number}"/>'
        for number, name in enumerate(sheets, 1)
    )
    named = {
        f"r{number}": ("worksheet", f"worksheets/sheet{number}.xml") for number in range(1, len(sheets) + 1)
    }
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": _types(
            "/xl/workbook.xml", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
        ),
        "_rels/.rels": relations({"r1": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook xmlns="{_S}" xmlns:r="{_R}"><sheets>{ids}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations(named | {"s": ("styles", "styles.xml")}),
        "xl/styles.xml": f'<styleSheet xmlns="{_S}">{styles}</styleSheet>',
    }
    for (_, place), rows in zip(named.values(), sheets.values(), strict=True):
        parts[f"xl/{place}"] = f'<worksheet xmlns="{_S}"><sheetData>{rows}</sheetData></worksheet>'
    return zipped(parts)


def _types(part: str, kind: str) -> str:
    return (
        f'<Types xmlns="{_TYPES}"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="{part}" ContentType="{kind}"/></Types>'
    )

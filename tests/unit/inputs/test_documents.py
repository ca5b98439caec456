"""Documents around the guest that reads them: known by their first bytes, what it says is checked."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from rlm_wasm.document_text import DocumentKind, text_name, told_of
from rlm_wasm.errors import InputDamaged, InputError, InputNotConverted, InputNotText, InputTooLarge
from rlm_wasm.inputs.documents import ConvertedDocument, DocumentFacts, converted, document_kind
from rlm_wasm.inputs.file_input import Reading, read_file_input
from rlm_wasm.inputs.folder_input import read_folder_input, told_of_left_out
from rlm_wasm.inputs.kinds import InputKind
from rlm_wasm.limits import InputLimits
from rlm_wasm.values import Value
from tests.support.documents import pdf

LIMITS = InputLimits(
    ratio_max=1_000, json_values_max=9, files_max=99, entries_max=99, depth_max=9, document_bytes_max=50_000
)
PDF = DocumentKind.PDF


class Reader:
    """Stands for the guest: says what it was given, or refuses."""

    def __init__(self, error: InputError | None = None, text: str = "one\ftwo") -> None:
        self.error = error
        self.text = text
        self.given: list[tuple[str, DocumentKind, bytes, int]] = []

    def __call__(self, file: str, kind: DocumentKind, data: bytes, bytes_max: int) -> ConvertedDocument:
        self.given.append((os.path.basename(file), kind, data, bytes_max))
        if self.error is not None:
            raise self.error
        return ConvertedDocument(self.text, DocumentFacts(kind.word, self.text.count("\f") + 1, 0))


def reading(reader: Reader | None, **more: object) -> Reading:
    given: dict[str, object] = {"bytes_max": 5_000, "limits": LIMITS, "guest_files_max": 99}
    return Reading(**(given | {"convert": reader} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "head", "kind"),
    [
        ("x.pdf", b"%PDF-1.7\n", PDF),
        ("x", b"%PDF-1.7\n", PDF),
        ("-", b"%PDF-1.7\n", PDF),
        ("x.PDF", b"\xef\xbb\xbfwritten by somebody\n%PDF-1.7\n", PDF),
        ("x.txt", b"words\n%PDF-1.7\n", None),
        ("x.pdf", b"<html>", None),
        ("x.pdf", b" " * 1_024 + b"%PDF-1.7", None),
        ("x.pdf", b"", None),
        ("x.docx", b"PK\x03\x04", DocumentKind.DOCX),
        ("x.DOCM", b"PK\x03\x04", DocumentKind.DOCX),
        ("x.xlsx", b"PK\x03\x04", DocumentKind.XLSX),
        ("x.pptx", b"PK\x03\x04", DocumentKind.PPTX),
        ("x.pdf", b"PK\x03\x04", None),
        ("x.zip", b"PK\x03\x04", None),
        ("x.docx", b"\xd0\xcf\x11\xe0", None),
        ("x.docx", b"%PDF-1.7\n", PDF),
    ],
)
def test_a_document_is_known_by_how_it_begins(file: str, head: bytes, kind: DocumentKind | None) -> None:
    assert document_kind(file, head) is kind


def test_a_text_is_called_as_its_document_and_says_what_that_was() -> None:
    assert text_name("a.pdf", PDF) == "a.pdf.txt"
    assert text_name("stdin", PDF) == "stdin.pdf.txt"
    assert told_of("a.pdf.txt", "x\f\fy") == (
        "the text of a PDF of 3 pages, a form feed ('\\f') between two pages"
    )
    assert told_of("a.pdf.txt", "x") == "the text of a PDF of 1 page"
    assert told_of("a.docx.txt", "x") == "the text of a Word document"
    assert told_of("a.xlsx.txt", "x\fy") == (
        "the text of an Excel workbook of 2 sheets, a form feed ('\\f') between two sheets; the first "
        "line of a sheet is its name, the others are CSV"
    )
    assert told_of("a.txt", "x\fy") == told_of("a.pdf", "x\fy") == ""


@pytest.mark.parametrize(
    ("name", "packed"), [("a.pdf", False), ("a.pdf.gz", True), ("a", False), ("a.gz", True)]
)
def test_the_guest_is_given_the_bytes_and_the_input_is_its_text(
    tmp_path: Path, name: str, packed: bool
) -> None:
    data = pdf([["x"]])
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if packed else data)
    reader = Reader()
    found = read_file_input("context", str(tmp_path / name), reading(reader))
    assert reader.given == [(name, PDF, data, 5_000)]
    assert (found.value, found.kind, found.file) == ("one\ftwo", "text", "a.pdf.txt")
    assert found.note == f"the text of {name!r}, which is a PDF of 2 pages"
    (file,) = found.files
    assert (file.document, file.encoding) == (DocumentFacts("pdf", 2, 0), None)
    assert (file.bytes, file.unpacked_bytes) == ((tmp_path / name).stat().st_size, len(data))


def test_a_document_may_be_larger_than_an_input_and_its_text_may_not(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf([["x"]]) + bytes(10_000))
    assert read_file_input("context", str(path), reading(Reader())).value == "one\ftwo"
    with pytest.raises(InputTooLarge, match=r"takes 20000 bytes in the guest.* sandbox\.context_bytes_max"):
        read_file_input("context", str(path), reading(Reader(text="😀" * 5_000)))
    for name, data in (
        ("b.pdf", pdf([]) + bytes(50_000)),
        ("b.pdf.gz", gzip.compress(pdf([]) + bytes(50_000))),
    ):
        (tmp_path / name).write_bytes(data)
        reader = Reader()
        with pytest.raises(InputTooLarge) as caught:
            read_file_input("context", str(tmp_path / name), reading(reader))
        assert (caught.value.key, caught.value.limit) == ("inputs.document_bytes_max", 50_000)
        assert reader.given == []


def test_bytes_are_as_they_are_and_a_name_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(data := pdf([["x"]]))
    reader = Reader()
    found = read_file_input("context", str(path), reading(reader, kind=InputKind.BYTES))
    assert (found.value, found.file) == (data, "a.pdf")
    path.write_bytes(b"<html>an error page</html>")
    with pytest.raises(InputDamaged, match=r"a\.pdf is not a PDF, whatever its name says; --bytes"):
        read_file_input("context", str(path), reading(reader))
    assert reader.given == []


@pytest.mark.parametrize(
    ("name", "data", "error", "says"),
    [
        ("a.docx", b"\xd0\xcf\x11\xe0" + bytes(99), InputNotConverted, "encrypted, or of Office before 2007"),
        ("a.xlsx", b"a;b\n1;2\n", InputDamaged, "is not an Excel workbook, whatever its name says; --bytes"),
        ("a.pptx.gz", gzip.compress(b"x", mtime=0), InputDamaged, "is not a PowerPoint presentation"),
    ],
)
def test_an_office_file_that_is_none_says_what_it_may_be(
    tmp_path: Path, name: str, data: bytes, error: type[InputError], says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=says):
        read_file_input("context", str(tmp_path / name), reading(Reader()))


def test_without_a_guest_a_document_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([["x"]]))
    with pytest.raises(InputNotText, match="is a PDF, not text"):
        read_file_input("context", str(tmp_path / "a.pdf"), reading(None))


def test_a_pipe_that_gives_a_byte_at_a_time_is_a_document_too(tmp_path: Path) -> None:
    data = pdf([["x"]])
    read_end, write_end = os.pipe()
    for byte in data:
        os.write(write_end, bytes([byte]))
    os.close(write_end)
    reader = Reader()
    try:
        found = read_file_input("context", f"/dev/fd/{read_end}", reading(reader))
    finally:
        os.close(read_end)
    assert [each[2] for each in reader.given] == [data]
    assert found.value == "one\ftwo"


def test_in_a_folder_each_document_is_a_text_of_a_name_of_its_own(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.txt", "sub/a.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pdf([["x"]]) if name.endswith("pdf") else b"plain")
    (tmp_path / "a.pdf.txt").write_text("mine")
    found = read_folder_input("context", str(tmp_path), reading(Reader()))
    assert dict(found.value.files) == {  # type: ignore[union-attr]
        "a-2.pdf.txt": "one\ftwo",
        "a.pdf.txt": "mine",
        "b.txt": "plain",
        "sub/a.pdf.txt": "one\ftwo",
    }
    # Where they were read, for who asks which files those are.
    assert [file.path for file in found.files] == ["a.pdf", "a.pdf.txt", "b.txt", "sub/a.pdf"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputNotConverted("f", "no"), "encrypted or has no text"),
        (InputNotConverted("f", "no", no_image=True), "make it with: rlm-wasm guest image data"),
        (InputDamaged("f", "no"), "damaged"),
    ],
)
def test_a_document_of_a_folder_without_text_is_left_out_and_counted(
    tmp_path: Path, error: InputError, says: str
) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([["x"]]))
    (tmp_path / "b.txt").write_text("plain")
    found = read_folder_input("context", str(tmp_path), reading(Reader(error)))
    assert dict(found.value.files) == {"b.txt": "plain"}  # type: ignore[union-attr]
    told = told_of_left_out(found.source, len(found.files), found.left_out)
    assert "a.pdf: " in told
    assert says in told


def test_a_document_of_a_folder_that_takes_too_much_refuses_all_of_it_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([["x"]]))
    error = InputTooLarge("f", "too much", key="inputs.document_fuel_max", limit=3)
    with pytest.raises(InputTooLarge, match="--exclude") as caught:
        read_folder_input("context", str(tmp_path), reading(Reader(error)))
    assert caught.value.key == "inputs.document_fuel_max"
    error = InputTooLarge("f", "too much", key="sandbox.context_bytes_max", limit=3)
    with pytest.raises(InputTooLarge, match=r"more in its files, up to a\.pdf"):
        read_folder_input("context", str(tmp_path), reading(Reader(error)))


def test_what_a_guest_says_of_a_document_is_taken_as_it_is_where_it_fits() -> None:
    found = converted("f", PDF, {"parts": 2, "empty": 1}, "a\f", 100, None)
    assert found == ConvertedDocument("a\f", DocumentFacts("pdf", 2, 1))


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (None, None),
        ("text", "text"),
        ([], "text"),
        ({}, "text"),
        ({"parts": 1}, "text"),
        ({"parts": 1, "empty": 0}, None),
        ({"parts": 1, "empty": 0}, b"text"),
        ({"parts": 1, "empty": 0}, ["text"]),
        ({"parts": 1, "empty": 0, "more": 1}, "text"),
        ({"parts": True, "empty": 0}, "text"),
        ({"parts": -1, "empty": 0}, "text"),
        ({"parts": 1, "empty": 2}, "text"),
        ({"parts": 10**20, "empty": 0}, "text"),
        ({"parts": 1.5, "empty": 0}, "text"),
        ({"parts": "1", "empty": 0}, "text"),
        ({"parts": 1, "empty": 0}, "half a pair \ud800"),
        ({"parts": 1, "empty": 0}, "\0"),
        ({"refused": "\x1b[2J"}, None),
        ({"refused": ["encrypted"]}, None),
        ({"refused": "encrypted", "parts": 1}, "text"),
    ],
)
@pytest.mark.threat("T-332")
def test_nonsense_of_a_guest_is_one_error_in_our_own_words(told: Value, text: Value) -> None:
    with pytest.raises(InputDamaged) as caught:
        converted("f.pdf", PDF, told, text, 100, None)
    assert caught.value.message == (
        "f.pdf is a PDF that no text could be made of: what the guest said is no answer; --bytes gives it as "
        "it is"
    )


@pytest.mark.parametrize(
    ("reason", "error", "says"),
    [
        ("encrypted", InputNotConverted, "opens without a password"),
        ("empty", InputNotConverted, "no text in it"),
        ("damaged", InputDamaged, "is damaged"),
        ("large", InputTooLarge, "larger than the 100 bytes that sandbox.context_bytes_max allows"),
    ],
)
def test_each_reason_is_one_line_that_names_the_file_and_the_way_out(
    reason: str, error: type[InputError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        converted("odd\n.pdf", PDF, {"refused": reason}, None, 100, "sandbox.context_bytes_max")
    assert "'odd\\n.pdf'" in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(InputTooLarge, match="larger than the 7 bytes that it may be"):
        converted("f.pdf", PDF, {"refused": "large"}, None, 7, None)

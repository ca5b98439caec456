"""Documents as inputs of real sessions and runs: read by a guest of their own, whatever they are."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import Inputs, Policy, Sandbox, values
from rlm_wasm.api import documents
from rlm_wasm.api.documents import DocumentConverter, converter_policy
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.document_text import DocumentKind, kind_of_name
from rlm_wasm.errors import InputDamaged, InputError, InputNotConverted, InputTooLarge
from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.inputs.documents import ConvertedDocument
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from tests.support.documents import (
    docx,
    encrypted_pdf,
    paragraph,
    pdf,
    pdf_of,
    pdf_of_contents,
    pptx,
    stream,
    table,
    xlsx,
    zipped,
)
from tests.support.images import made_data
from tests.support.runtime_facts import Events, Script, running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

PAGES = [["Größe (1)", "back\\slash"], [], ["second"]]
TEXT = "Größe (1)\nback\\slash\n\f\fsecond\n"
# A conversion that goes on and on ends soon.
FUEL = {"document_fuel_max": 2_000_000_000, "document_wall_ms_max": 600_000}
_PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 1 1] /Contents 4 0 R %s >>"
_ROOT = b"<< /Type /Catalog /Pages 2 0 R >>"
_ONE = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"


@pytest.fixture(autouse=True, scope="module")
def data() -> None:
    made_data()
    # What a process keeps of a guest from its first session on: before the health of the host is looked at.
    load_guest_program("data")
    guest_files("data")


def written(folder: Path, data: bytes, name: str = "report.pdf") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("isolation", ["inline", "shared", "tenant", "session"])
async def test_a_pdf_is_its_text_under_every_isolation(tmp_path: Path, isolation: str) -> None:
    policy = small_policy(sandbox={"isolation": isolation, "require_lockdown": isolation != "inline"})
    told: list[tuple[str, int, int]] = []
    path = written(tmp_path, pdf(PAGES, packed=True))
    # Where an event loop runs, too: a notebook always has one.
    inputs = Inputs.read(policy, path, on_converting=lambda *each: told.append(each))
    assert dict(inputs) == {"context": TEXT}
    assert inputs.file_names == {"context": "report.pdf.txt"}
    assert inputs.notes == {
        "context": "the text of 'report.pdf', which is a PDF of 3 pages, 1 of them without text"
    }
    assert inputs.as_report()["inputs"][0]["files"][0]["document"] == {
        "kind": "pdf",
        "parts": 3,
        "parts_without_text": 1,
    }
    assert told == [(str(path), number, 3) for number in range(3)]


async def test_a_run_is_told_what_a_text_was_and_comes_again(tmp_path: Path) -> None:
    log, events = tmp_path / "events.jsonl", Events()
    policy = small_policy(events={"texts": True}, sandbox={"entropy": "seeded", "seed": 7})
    code = "FINAL([context.split('\\f')[2], open('/inputs/report.pdf.txt').read() == context])"
    script = Script(tmp_path).reply("root", code)
    path = written(tmp_path, pdf(PAGES))
    inputs = Inputs.read(policy, path)
    with JsonlSink(log) as sink:
        async with running(policy, script.spec) as runtime:
            result = await runtime.ask(
                "?", inputs, sinks=[sink.write, events.append], file_names=inputs.file_names
            )
    assert result.answer == str(["second\n", True])
    texts = events.of("query_received")[0]["texts"]
    assert isinstance(texts, list)
    assert (
        "It is the file '/inputs/report.pdf.txt' as well: the text of a PDF of 3 pages, a form feed ('\\f') "
        "between two pages."
    ) in "\n".join(texts).splitlines()
    assert (await replay(Recording.open(log))).difference is None
    # A text is known by its digest: the document gives it again, as it does any time.
    again = Inputs.read(policy, path)
    assert (await replay(Recording.open(log), dict(again))).difference is None


async def test_a_folder_has_the_texts_of_its_documents_and_says_what_is_none(tmp_path: Path) -> None:
    for name, data in {"a.pdf": pdf([["x"]]), "b.pdf": encrypted_pdf(), "c.txt": b"plain"}.items():
        written(tmp_path, data, name)
    inputs = Inputs.read(small_policy(), tmp_path)
    (item,) = inputs.items_read
    assert inputs["context"].files == {"a.pdf.txt": "x\n", "c.txt": "plain"}  # type: ignore[union-attr]
    assert {str(reason): found.first for reason, found in item.left_out.items()} == {
        "a document that is encrypted or has no text (given by itself, it says which)": "b.pdf"
    }


@pytest.mark.parametrize(
    ("data", "limits", "error", "says"),
    [
        (encrypted_pdf(), {}, InputNotConverted, "encrypted; give a copy that opens without a password"),
        (pdf([[], []]), {}, InputNotConverted, "no text in it, such as a scan"),
        (pdf([["x"]])[:200], {}, InputDamaged, "is damaged; --bytes"),
        (
            pdf([["x"]]),
            {"document_bytes_max": 500},
            InputTooLarge,
            "500 bytes that inputs.document_bytes_max",
        ),
        (pdf([["x"] * 50] * 9), {"document_fuel_max": 50_000_000}, InputTooLarge, "inputs.document_fuel_max"),
        (pdf([["x"] * 50] * 99), {"document_wall_ms_max": 1}, InputTooLarge, "inputs.document_wall_ms_max"),
        (
            pdf([["x"]]) + bytes(9_000_000),
            {"document_memory_bytes_max": 72 << 20},
            InputTooLarge,
            "inputs.document_memory_bytes_max",
        ),
    ],
    ids=["encrypted", "scan", "damaged", "bytes", "fuel", "wall", "memory"],
)
def test_a_refusal_is_one_line_that_names_the_file_and_the_way_out(
    tmp_path: Path, data: bytes, limits: dict[str, int], error: type[InputError], says: str
) -> None:
    path = written(tmp_path, data)
    with pytest.raises(error) as caught:
        Inputs.read(small_policy(inputs=limits), path)
    message = caught.value.message
    assert says in message
    assert str(path) in message
    assert "\n" not in message


def test_without_the_image_it_is_said_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, pdf([["x"]]))
    monkeypatch.setattr(documents, "IMAGE", "absent")
    with pytest.raises(InputNotConverted, match=r"make it with: rlm-wasm guest image absent .*--bytes"):
        Inputs.read(small_policy(), path)
    assert Inputs.read(small_policy(), path, kind="bytes")["context"] == path.read_bytes()
    written(tmp_path, b"plain", "b.txt")
    (item,) = Inputs.read(small_policy(), tmp_path).items_read
    assert [file.path for file in item.files] == ["b.txt"]
    assert "no image" in str(list(item.left_out))


_STYLES = (
    "<fonts><font/></fonts><fills><fill><patternFill/></fill></fills><borders><border/></borders>"
    "<cellStyleXfs><xf/></cellStyleXfs><cellXfs><xf/><xf numFmtId='14'/><xf numFmtId='22'/></cellXfs>"
)


def test_a_word_document_is_its_paragraphs_tables_and_notes(tmp_path: Path) -> None:
    box = "<w:txbxContent><w:p><w:r><w:t>box</w:t></w:r></w:p></w:txbxContent>"
    body = [
        paragraph("Größe <1>", "<w:r><w:tab/></w:r>", "&", "<w:r><w:br/></w:r>", "next"),
        paragraph(),
        table(
            [
                [paragraph("a"), paragraph("b") + paragraph("c")],
                [table([[paragraph("in"), ""]]), paragraph("d")],
            ]
        ),
        f"<w:p><w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
        "</mc:AlternateContent><w:t>after</w:t><w:footnoteReference w:id='2'/></w:r>"
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>",
    ]
    notes = (
        "<w:footnote w:type='separator' w:id='0'><w:p/></w:footnote>"
        f"<w:footnote w:id='2'>{paragraph('see')}</w:footnote>"
    )
    inputs = Inputs.read(small_policy(), written(tmp_path, docx("".join(body), footnotes=notes), "a.docx"))
    assert inputs["context"] == (
        "Größe <1>\t&\nnext\n\na\tb c\nin\td\nbox\nafter[footnote 2]\n[footnote 2] see\n"
    )
    assert inputs.file_names == {"context": "a.docx.txt"}
    assert inputs.notes == {"context": "the text of 'a.docx', which is a Word document"}


def test_a_workbook_is_its_sheets_as_csv(tmp_path: Path) -> None:
    rows = (
        "<row r='1'><c r='A1' t='inlineStr'><is><t>day, or so</t></is></c><c r='B1'><v>1.5</v></c></row>"
        "<row r='3'><c r='A3' s='1'><v>46085</v></c><c r='C3'><f>1+1</f><v>2</v></c>"
        "<c r='D3' t='b'><v>1</v></c><c r='E3' s='2'><v>46085.5</v></c></row><row r='9'><c r='A9'/></row>"
    )
    book = xlsx({"Sales & more": rows, "Empty": ""}, styles=_STYLES)
    inputs = Inputs.read(small_policy(), written(tmp_path, book, "a.xlsx"))
    assert inputs["context"] == (
        'Sales & more\n"day, or so",1.5\n\n2026-03-04,,2,TRUE,2026-03-04 12:00:00\n\fEmpty\n'
    )
    assert "an Excel workbook of 2 sheets, 1 of them without text" in inputs.notes["context"]
    with pytest.raises(InputNotConverted, match="is an Excel workbook with no text in it; --bytes"):
        Inputs.read(small_policy(), written(tmp_path, xlsx({"Empty": ""}, styles=_STYLES), "b.xlsx"))


def test_a_presentation_is_its_slides_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path, pptx([["one", "first"], ["", "two"], []]), "a.pptx")
    told: list[tuple[str, int, int]] = []
    inputs = Inputs.read(small_policy(), path, on_converting=lambda *each: told.append(each))
    assert inputs["context"] == "one\nfirst\n\ftwo\n\f"
    assert told == [(str(path), number, 3) for number in range(3)]


# What a hostile document asks for, each made when it is tried: nothing of them may matter to the host.
HOSTILE = {
    "packed twice": lambda: pdf_of(
        [
            _ROOT,
            _ONE,
            _PAGE % b"",
            b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n%s\nendstream"
            % (len(bomb := zlib.compress(zlib.compress(bytes(64 << 20), 9), 9)), bomb),
        ]
    ),
    "much text of few bytes": lambda: pdf_of_contents(
        [b"BT /F1 1 Tf " + b"(%s) Tj " % (b"a" * 500) * 900 + b"ET"] * 9
    ),
    "pages of themselves": lambda: pdf_of([_ROOT, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"]),
    "deep arrays": lambda: pdf_of([_ROOT, b"[" * 50_000 + b"]" * 50_000]),
    "a form of itself": lambda: pdf_of(
        [
            _ROOT,
            _ONE,
            _PAGE % b"/Resources << /XObject << /X 5 0 R >> >>",
            stream(b"/X Do"),
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 1 1] /Resources << /XObject << /X 5 0 R >> >> "
            b"/Length 11 >>\nstream\n/X Do /X Do\nendstream",
        ]
    ),
    "a million pages claimed": lambda: pdf_of(
        [_ROOT, _ONE.replace(b"/Count 1", b"/Count 1000000"), _PAGE % b"", stream(b"")]
    ),
    "a million pages of one": lambda: pdf_of(
        [
            _ROOT,
            b"<< /Type /Pages /Kids [%s] /Count 1000000 >>" % (b"3 0 R " * 10**6),
            _PAGE % b"",
            stream(b""),
        ]
    ),
    "a length that is none": lambda: pdf_of(
        [_ROOT, _ONE, _PAGE % b"", b"<< /Length 4 0 R >>\nstream\nx\nendstream"]
    ),
    "a table that leads round": lambda: pdf([["x"]], tail=b"/Prev 9"),
}


_LAUGHS = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))
_MORE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">%s]>'


def _word(text: str, *, before: str = "") -> bytes:
    space = "xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'"
    return docx("", **{"word/document.xml": f"{before}<w:document {space}>{text}</w:document>"})


def _row(more: str) -> bytes:
    return xlsx({"x": f"<row {more}</row>"}, styles=_STYLES)


HOSTILE_OFFICE = {
    "one long text.docx": lambda: _word(f"<w:p><w:r><w:t>{'a' * (64 << 20)}</w:t></w:r></w:p>"),
    "many paragraphs.docx": lambda: _word("<w:p/>" * 3_000_000),
    "deep tables.docx": lambda: _word("<w:tbl><w:tr><w:tc>" * 50_000 + "</w:tc></w:tr></w:tbl>" * 50_000),
    "laughs.docx": lambda: _word("<w:p><w:r><w:t>&e11;</w:t></w:r></w:p>", before=_MORE % _LAUGHS),
    "a file of the host's.docx": lambda: _word(
        "<w:p><w:r><w:t>&f;</w:t></w:r></w:p>", before=_MORE % "<!ENTITY f SYSTEM 'file:///etc/passwd'>"
    ),
    "out of itself.docx": lambda: docx(paragraph("x"), main="../../../../etc/passwd"),
    "names of the host's.docx": lambda: docx(
        paragraph("x"), **{"../../etc/passwd": "root", "/etc/shadow": "root"}
    ),
    "a part of itself.docx": lambda: docx(paragraph("x"), main="_rels/.rels"),
    "no parts.docx": lambda: zipped({}),
    "cut off.docx": lambda: docx(paragraph("x"))[:300],
    "a wide row.xlsx": lambda: _row("r='1'>" + "<c r='XFD1'><v>1</v></c>" * 2_000),
    "a last row.xlsx": lambda: _row("r='1048576'><c r='A1048576'><v>1</v></c>"),
    "a row beyond.xlsx": lambda: _row("r='999999999999'><c r='A1'><v>1</v></c>"),
    "no styles.xlsx": lambda: xlsx({"x": "<row r='1'><c r='A1' s='9'><v>1</v></c></row>"}),
    "slides that are none.pptx": lambda: docx(paragraph("x")),
}


@pytest.mark.parametrize("what", [*HOSTILE, *HOSTILE_OFFICE])
@pytest.mark.threat("T-332")
def test_a_hostile_document_is_a_text_or_a_refusal_and_the_next_one_is_read(what: str) -> None:
    policy = small_policy(
        inputs=FUEL | {"document_memory_bytes_max": 160 << 20},
        sandbox={"context_bytes_max": 1 << 20, "memory_bytes_max": 64 << 20},
    )
    data = (HOSTILE | HOSTILE_OFFICE)[what]()
    with DocumentConverter(policy) as convert:
        try:
            kind = kind_of_name(what) or DocumentKind.PDF
            found: ConvertedDocument | InputError = convert(what, kind, data, 1 << 20)
        except InputError as error:
            found = error
        if isinstance(found, InputError):
            assert what in found.message
            assert "\n" not in found.message
        else:
            assert len(found.text.encode()) <= 1 << 20
            assert "root" not in found.text
        assert convert("b.pdf", DocumentKind.PDF, pdf([["x"]]), 1 << 20).text == "x\n"


# What a document that owns its guest could have it say, in the place of what it should.
OWNED = {
    "no answer": ("1", InputDamaged),
    "nothing": ("pass", InputDamaged),
    "no text": ("{'parts': 1, 'empty': 0}", InputDamaged),
    "another type": ("text = [1]\n{'parts': 1, 'empty': 0}", InputDamaged),
    "half a pair": ("text = '\\ud800'\n{'parts': 1, 'empty': 0}", InputDamaged),
    "a gigabyte": ("text = 'x' * (1 << 30)\n{'parts': 1, 'empty': 0}", InputTooLarge),
    "more than a text may be": ("text = 'x' * (70 << 20)\n{'parts': 1, 'empty': 0}", InputDamaged),
    "much in the place of little": ("{'parts': 'x' * (1 << 20), 'empty': 0}", InputDamaged),
    "its own error": ("{'refused': 'open http://example.com'}", InputDamaged),
    "a flood": ("while True: print('x' * 4096)", InputDamaged),
    "no end": ("while True: pass", InputTooLarge),
    "no end, and no exception": (
        "while True:\n try:\n  while True: pass\n except BaseException: pass",
        InputTooLarge,
    ),
    "an exit": ("raise SystemExit(0)", InputDamaged),
    "a question to a model": ("text = llm_query('?')\n{'parts': 1, 'empty': 0}", InputDamaged),
}


@pytest.mark.parametrize("what", OWNED)
@pytest.mark.threat("T-332")
def test_a_guest_that_a_document_owns_gets_nothing_but_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    source, error = OWNED[what]
    monkeypatch.setattr(documents, "conversion", lambda kind, text_bytes_max: source)
    told: list[object] = []
    policy = small_policy(inputs=FUEL)
    with pytest.raises(error) as caught:
        Inputs.read(policy, written(tmp_path, pdf([["x"]])), on_converting=lambda *each: told.append(each))
    message = caught.value.message
    assert "\n" not in message
    assert "example" not in message
    assert told == []


@pytest.mark.parametrize(
    "source",
    [
        "text = [[]] * 100_000\n{'parts': 1, 'empty': 0}",
        "{'parts': [[]] * 10_000, 'empty': 0}",
    ],
    ids=["for a text", "for two numbers"],
)
@pytest.mark.threat("T-332")
def test_no_objects_are_made_of_what_a_document_sends_but_of_a_short_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    decoded: list[int] = []
    check = values._check_nesting

    def noted(body: bytes) -> None:
        decoded.append(len(body))
        check(body)

    monkeypatch.setattr(values, "_check_nesting", noted)
    monkeypatch.setattr(documents, "conversion", lambda kind, text_bytes_max: source)
    with pytest.raises(InputDamaged):
        Inputs.read(small_policy(), written(tmp_path, pdf([["x"]])))
    assert max(decoded, default=0) < 100


@pytest.mark.parametrize("name", ["strict", "container", "standard"])
@pytest.mark.threat("T-332")
def test_the_guest_of_a_document_is_held_as_any_other_and_has_limits_of_its_own(name: str) -> None:
    policy = Policy.builtin(name)
    made, limits = converter_policy(policy), policy.input_limits()
    assert made.sandbox.isolation == policy.sandbox.isolation
    assert made.required_layers() == policy.required_layers()
    assert (made.sandbox.image, made.sandbox.clock, made.sandbox.entropy) == ("data", "virtual", "seeded")
    assert made.sandbox.memory_bytes_max == limits.document_memory_bytes_max
    assert (made.cell.fuel_max, made.cell.wall_ms_max) == (
        limits.document_fuel_max,
        limits.document_wall_ms_max,
    )


async def test_a_small_machine_gives_documents_what_it_has() -> None:
    workers: dict[str, Any] = {"memory_bytes_max": 200 << 20}
    policy = Policy.from_mapping(
        {
            **small_policy(workers=workers, inputs={"document_memory_bytes_max": 128 << 20}).to_mapping(),
            "inputs": None,
        }
    )
    assert converter_policy(policy).sandbox.memory_bytes_max == 200 << 20
    async with Sandbox(converter_policy(policy)) as box, box.session() as session:
        assert (await session.exec("1")).result == "1"

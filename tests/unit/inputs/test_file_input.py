"""One file as an input: its value, what is told of it, and each refusal in one line."""

from __future__ import annotations

import codecs
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import InputDamaged, InputError, InputNotText, InputTooLarge
from rlm_wasm.inputs import file_input as file_input_module
from rlm_wasm.inputs.file_input import Reading, read_file_input, stays_where_it_is
from rlm_wasm.inputs.given import FileRead, InputRead
from rlm_wasm.inputs.kinds import InputKind
from rlm_wasm.limits import InputLimits
from rlm_wasm.values import JsonText

LIMITS = InputLimits(ratio_max=100, json_values_max=1_000, files_max=9, entries_max=99, depth_max=9)


def read(path: Path, data: bytes, **more: object) -> InputRead:
    path.write_bytes(data)
    reading = Reading(**({"bytes_max": 10_000, "limits": LIMITS} | more))  # type: ignore[arg-type]
    return read_file_input("context", str(path), reading)


def test_a_packed_table_in_another_encoding_is_text_with_a_note_of_its_columns(tmp_path: Path) -> None:
    data = "\ufeffName;Größe\nAnn;3\n".encode("utf-16-le")
    found = read(tmp_path / "x.csv.gz", packed := gzip.compress(data))
    assert found.value == "Name;Größe\nAnn;3\n"
    assert found.note == "the text of 'x.csv.gz', a table whose first line names 2 columns: 'Name', 'Größe'"
    file = FileRead(str(tmp_path / "x.csv.gz"), len(packed), len(data), "gzip", "utf-16-le")
    assert (found.kind, found.file, found.files) == ("text", "x.csv.gz", (file,))


@pytest.mark.parametrize(
    ("name", "data", "type_name", "value"),
    [
        ("x.json", b'\xef\xbb\xbf{"a": [1, "\xc3\xa4"]}', "dict", {"a": [1, "ä"]}),
        ("x.JSON", b"[]", "list", []),
        ("x.jsonl", b'{"a": 1}\n\n[2]\n', "list", [{"a": 1}, [2]]),
        ("x.ndjson.gz", gzip.compress(b"1\n2\n", mtime=0), "list", [1, 2]),
    ],
)
def test_json_is_a_value(tmp_path: Path, name: str, data: bytes, type_name: str, value: object) -> None:
    found = read(tmp_path / name, data)
    assert isinstance(found.value, JsonText)
    assert (found.value.type_name, json.loads(found.value)) == (type_name, value)


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [
        ("x.json", b'{"a": 1,}', "the text of 'x.json', as text because it is not valid JSON: "),
        ("x.json", b"[" + b"0," * 2_000 + b"0]", "as text because it may hold more than 1000 values"),
        ("x.json", '["ä"]'.encode() + b" " * 9_990, "the value of the JSON in 'x.json'"),
        ("x.json", ('["' + "ä" * 4_000 + '"]').encode(), "as text because it is too large for a value"),
        ("x.json", b'"a text"', "the text of 'x.json'"),
        ("x.txt", b'{"a": 1}', "the text of 'x.txt'"),
    ],
)
def test_what_is_no_value_is_text_and_says_why(tmp_path: Path, name: str, data: bytes, note: str) -> None:
    found = read(tmp_path / name, data)
    assert note in found.note
    assert isinstance(found.value, JsonText) is note.startswith("the value")
    assert isinstance(found.value, JsonText) or found.value == data.decode()


def test_a_kind_that_was_chosen_is_what_is_given(tmp_path: Path) -> None:
    assert read(tmp_path / "x.json", b"[1]", kind=InputKind.TEXT).value == "[1]"
    assert read(tmp_path / "x.json.gz", b"\x1f\x8bno", kind=InputKind.BYTES).value == b"\x1f\x8bno"
    three = read(tmp_path / "x.txt", b"3", kind=InputKind.JSON)
    assert isinstance(three.value, JsonText)
    assert (three.value, three.value.type_name) == ("3", "int")


@pytest.mark.parametrize(
    ("name", "data", "more", "error", "says"),
    [
        ("x.json", b"{", {"kind": InputKind.JSON}, InputError, "--as text gives it as text"),
        ("x.jsonl", b"1\nno\n", {"kind": InputKind.JSONL}, InputError, "in line 2"),
        ("x.gz", b"plain words", {}, InputDamaged, "is not gzip data: it is damaged"),
        ("x.gz", b"", {}, InputDamaged, "it is empty"),
        (
            "x.txt",
            b"x" * 10_001,
            {},
            InputTooLarge,
            "larger than the 10000 bytes that sandbox.context_bytes_max",
        ),
        ("x.gz", gzip.compress(b"x" * 10_001, mtime=0), {}, InputTooLarge, "sandbox.context_bytes_max"),
        (
            "x.gz",
            gzip.compress(bytes(2_000_000), mtime=0),
            {"bytes_max": 5_000_000},
            InputTooLarge,
            "inputs.ratio_max",
        ),
        ("x.txt", ("ä" * 4_000 + "😀").encode(), {}, InputTooLarge, "takes 16004 bytes in the guest"),
        ("x.txt", b"a\xff", {}, InputNotText, "--encoding"),
        ("x.bin", b"\0\1", {}, InputNotText, "--bytes"),
    ],
)
@pytest.mark.threat("T-214")
def test_a_refusal_is_one_line_that_names_the_file_and_the_way_out(
    tmp_path: Path, name: str, data: bytes, more: dict[str, object], error: type[InputError], says: str
) -> None:
    with pytest.raises(error) as caught:
        read(tmp_path / name, data, **more)
    message = caught.value.message
    assert caught.value.file == str(tmp_path / name)
    assert str(tmp_path / name) in message
    assert says in message
    assert "\n" not in message


@pytest.mark.threat("T-214")
def test_a_note_is_one_short_line_whatever_a_file_is_called_or_holds(tmp_path: Path) -> None:
    columns = ";".join(["\x1b[2J\n" + "x" * 250] * 200).replace("\n", "")
    found = read(tmp_path / ("a\n`\x1b" + "é" * 80 + ".csv"), columns.encode(), bytes_max=1 << 20)
    assert found.note.isprintable()
    assert len(found.note) < 4_000
    assert "200 columns" in found.note


@pytest.mark.parametrize("kind", [InputKind.AUTO, InputKind.TEXT, InputKind.BYTES])
@pytest.mark.parametrize("name", ["x.log", "x.json"])
def test_a_file_that_no_guest_could_hold_stays_where_it_is(
    tmp_path: Path, kind: InputKind, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"line\n" * 3_000)
    found = stays_where_it_is("context", str(path), Reading(10_000, LIMITS, kind))
    assert found is not None
    assert (found.value, found.file) == (None, name)
    assert found.kind == ("bytes" if kind is InputKind.BYTES else "text")
    assert found.files[0].bytes == 15_000
    assert "stays where it is" in found.note


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (b"x" * 10_000, {}),
        (gzip.compress(os.urandom(20_000)), {}),
        (b"\0" + b"x" * 20_000, {}),
        (b"%PDF-1.7\n" + b"x" * 20_000, {}),
        (codecs.BOM_UTF16_LE + b"x" * 20_000, {}),
        (codecs.BOM_UTF32_BE + b"\0\0\0x" * 5_000, {}),
        (b"x" * 20_000, {"encodings": ("cp1252",)}),
        (b"x" * 20_000, {"kind": InputKind.JSON}),
    ],
    ids=["small", "packed", "binary", "pdf", "marked", "marked-32", "another-encoding", "value"],
)
def test_what_cannot_be_read_in_parts_is_read_whole_or_refused(
    tmp_path: Path, data: bytes, more: dict[str, Any]
) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert stays_where_it_is("context", str(path), Reading(10_000, LIMITS, **more)) is None
    assert stays_where_it_is("context", "-", Reading(10_000, LIMITS)) is None
    assert stays_where_it_is("context", str(tmp_path / "missing"), Reading(10_000, LIMITS)) is None


def test_a_pipe_that_is_put_in_the_place_of_a_large_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 20_000)
    real_stat = os.stat

    def swapping(file: str) -> os.stat_result:
        found = real_stat(file)
        path.unlink()
        os.mkfifo(path)
        return found

    monkeypatch.setattr(file_input_module.os, "stat", swapping)
    with pytest.raises(InputError, match="changed while it was read"):
        stays_where_it_is("context", str(path), Reading(10_000, LIMITS))


def test_a_pipe_is_left_to_whoever_reads_it_and_its_writer_keeps_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "x")
    opened: list[str] = []
    monkeypatch.setattr(file_input_module.os, "open", lambda file, *_: opened.append(file))
    assert stays_where_it_is("context", str(tmp_path / "x"), Reading(10_000, LIMITS)) is None
    assert opened == []

"""Which text a file's bytes are: marks, named encodings, UTF-8, and what is no text at all."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import InputNotText, UsageError
from rlm_wasm.inputs.text_encoding import checked_encodings, decoded
from tests.unit.inputs.calm import CALM

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
# A NUL behind the mark of UTF-16 is the mark of UTF-32.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=50)


@pytest.mark.parametrize("encoding", MARKS)
@CALM
@given(text=TEXTS)
def test_a_mark_says_the_encoding_and_is_no_part_of_the_text(encoding: str, text: str) -> None:
    data = MARKS[encoding] + text.encode(encoding)
    assert decoded(data, "f") == (text, encoding)
    assert decoded(data, "f", ("latin-1",)) == (text, encoding)


@CALM
@given(text=TEXTS)
def test_without_a_mark_it_is_utf_8(text: str) -> None:
    assert decoded(text.encode(), "f") == (text, "utf-8")


@CALM
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_text_or_one_error_that_names_the_file(data: bytes) -> None:
    refusal: InputNotText | None = None
    try:
        text, encoding = decoded(data, "the file")
    except InputNotText as error:
        refusal = error
    else:
        assert data.endswith(text.encode(encoding))
    if refusal is not None:
        assert refusal.file == "the file"
        assert refusal.message.startswith("the file is ")
        assert "--bytes" in refusal.message
        assert "\n" not in refusal.message


def test_named_encodings_are_tried_in_their_order() -> None:
    names = checked_encodings("utf-8, cp1252,latin-1")
    assert names == ("utf-8", "cp1252", "iso8859-1")
    assert decoded("grüße".encode(), "f", names) == ("grüße", "utf-8")
    assert decoded("grüße €".encode("cp1252"), "f", names) == ("grüße €", "cp1252")
    assert decoded(b"\x81", "f", names) == ("\x81", "iso8859-1")


def test_a_text_in_no_encoding_that_was_tried_says_which_were() -> None:
    with pytest.raises(InputNotText, match=r"^f is not UTF-8 text \(byte 2\); --encoding names its encoding"):
        decoded(b"gr\xfc\xdfe", "f")
    with pytest.raises(InputNotText, match=r"^f is not utf-8 nor ascii text \(byte 2\)"):
        decoded(b"gr\xfc\xdfe", "f", ("utf-8", "ascii"))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7\n...", "a PDF"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"some\0words", "binary"),
        ("hello, words".encode("utf-16-le"), "--encoding utf-16-le"),
        ("hello, words".encode("utf-16-be"), "--encoding utf-16-be"),
    ],
)
def test_what_is_binary_says_what_it_seems_to_be_and_the_way_out(data: bytes, what: str) -> None:
    with pytest.raises(InputNotText, match="--bytes gives it as bytes") as caught:
        decoded(data, "f")
    assert what in caught.value.message


def test_who_names_an_encoding_is_believed() -> None:
    assert decoded(b"some\0words", "f", ("utf-8",)).text == "some\0words"
    assert decoded("hello".encode("utf-16-le"), "f", ("utf-16-le",)).text == "hello"


@pytest.mark.parametrize("name", ["", "no-such", "hex", "rot13", "idna", "unicode_escape", "a\0b", "utf-8,,"])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no encoding of text"):
        checked_encodings(name)
    assert checked_encodings(None) == ()

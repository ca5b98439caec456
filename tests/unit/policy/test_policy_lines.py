"""The line of every key, for any TOML that the standard library's parser accepts."""

from __future__ import annotations

import contextlib
import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.policy.builtin import builtin_path
from rlm_wasm.policy.lines import index_lines

# Values as text, with the traps inside: brackets, hashes, equals signs and newlines in strings.
VALUES = st.sampled_from(
    [
        "1",
        "-0.5e3",
        "true",
        "1979-05-27 07:32:00",
        "1979-05-27T07:32:00Z",
        '""',
        "''",
        '"a # b = [c] \\" d"',
        "'a # \" [x]'",
        '"""\nline = 1\n[table]\n""quoted"" \\"""\n"""',
        '"""a"""""',
        "'''\nk = 'v'\n'''",
        "[1, 2, 3]",
        "[]",
        "[\n  1, # one\n  [2,\n 3],\n]",
        '["]", \'[\', """\n]\n"""]',
        "{}",
        "{ x = 1, y.z = '}' }",
        "[{ x = [1,\n2] }, { x = 3 }]",
    ]
)
NAMES = st.one_of(
    st.text("abcXYZ019_-", min_size=1, max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
GAPS = st.sampled_from(["", "\n", "\n\n", "# comment = [1]\n", "  \t\n", '# "\n'])


def _key(name: str) -> str:
    bare = name and all(char.isascii() and (char.isalnum() or char in "_-") for char in name)
    return name if bare else json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(
    st.lists(
        st.tuples(NAMES, st.booleans(), st.lists(st.tuples(NAMES, VALUES, GAPS), max_size=5), GAPS),
        max_size=5,
        unique_by=lambda table: table[0],
    )
)
def test_every_table_and_key_is_found_where_the_writer_put_it(tables):
    """The writer of the text keeps its own books of where it put things; the scanner must agree."""
    text, expected = "", {}
    for name, is_array, entries, gap in tables:
        text += gap
        path = (name, 0) if is_array else (name,)
        expected[(name,)] = expected[path] = text.count("\n") + 1
        text += f"[[{_key(name)}]]\n" if is_array else f"[ {_key(name)} ]\n"
        seen = set()
        for key, value, space in entries:
            if key in seen:
                continue
            seen.add(key)
            text += space
            expected[(*path, key)] = text.count("\n") + 1
            text += f"{_key(key)} = {value} # end\n"
    tomllib.loads(text)  # the text is valid, else the test is
    found = index_lines(text)
    assert {key: found.get(key) for key in expected} == expected


def test_dotted_keys_inline_tables_and_arrays_have_lines():
    lines = index_lines(
        "a.'b c'.d = {e = 1, f.g = 2}\nh = [\n1,\n{i = 2},\n]\n[[j]]\nk=1\n[[j]]\nk=2\n[j.l]\nm=1\n"
    )
    assert lines[("a",)] == lines[("a", "b c")] == lines[("a", "b c", "d", "f", "g")] == 1
    assert lines[("h",)] == 2
    assert lines[("h", 1, "i")] == 4
    assert (lines[("j", 0, "k")], lines[("j", 1, "k")], lines[("j", 1, "l", "m")]) == (7, 9, 11)


@pytest.mark.parametrize("name", ["strict", "standard"])
def test_every_key_of_a_real_policy_has_a_line_that_holds_it(name):
    text = builtin_path(name).read_text()
    rows = text.splitlines()
    found = index_lines(text)

    def walk(path, table):
        for key, value in table.items():
            assert key in rows[found[(*path, key)] - 1]
            if isinstance(value, dict):
                walk((*path, key), value)

    walk((), tomllib.loads(text))


@given(st.text("ab=\"'[]{}#.,\\\n 1", max_size=60))
def test_scanner_ends_on_any_text_valid_or_not(text):
    with contextlib.suppress(tomllib.TOMLDecodeError):
        index_lines(text)

"""Inputs that lie with the host, in the guest: files in /inputs, and text that is read a part at a time."""

from __future__ import annotations

import bisect
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.input_answers import answer
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.input_reads import InputAsked, InputPart
from rlm_wasm.results import CellResult
from rlm_wasm.values import JsonText
from rlm_wasm.vm.cell_decoding import decode_cell
from rlm_wasm.vm.session import Session, drive
from tests.support.sandbox_facts import MIB, cell_limits

TEXT = "".join(f"{number}: é 漢 🙂 line\n" if number % 3 else f"{number}\n" for number in range(60_000))


class Host:
    """The host of one session: its inputs, and what was asked of them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inputs = HeldInputs()
        self.asked: list[InputAsked] = []

    def load(self, name: str, value: str | bytes | InputFile, file: str) -> None:
        held = self.inputs.add(name, file, value)
        drive(self.session.load(name, b"" if isinstance(value, InputFile) else value, held))
        self.inputs.keep(held.number)

    def run(self, source: str, **limits: int) -> CellResult:
        cell = Cell(source, cell_limits(**{"fuel_max": 20_000_000_000, **limits}))
        end = drive(self.session.run(cell), read=self._read)
        return decode_cell(end, memory_bytes_max=self.session.memory_bytes_max)

    def value(self, source: str, **limits: int) -> str:
        result = self.run(source, **limits)
        assert result.outcome == "completed", result.error and result.error.traceback
        return result.result or ""

    def _read(self, asked: InputAsked) -> InputPart:
        self.asked.append(asked)
        return answer(self.inputs, asked)


def told_of(result: CellResult) -> str:
    """Return what a model is shown of an error."""
    assert result.error is not None
    return result.error.traceback


@pytest.fixture
def host(make_session: Callable[..., Session]) -> Iterator[Host]:
    made = Host(make_session(memory_bytes_max=128 * MIB))
    yield made
    made.inputs = HeldInputs()  # its files are closed with it


@pytest.fixture
def lazy(host: Host, tmp_path: Path) -> Host:
    """A host whose `context` is a text of three pages that stays where it is."""
    path = tmp_path / "big.log"
    path.write_text(TEXT, encoding="utf-8")
    assert path.stat().st_size > 2 * MIB // 2
    host.load("context", InputFile(path), "big.log")
    return host


def test_every_input_is_a_file_by_its_name_and_its_variable_is_what_it_was(host: Host) -> None:
    host.load("context", "a,b\n1,é\n", "x.csv")
    host.load("raw", b"\0\xff" * 10, "raw.bin")
    assert host.value("context, raw[:2], type(context), type(raw)").startswith(r"('a,b\n1,é\n', b'\x00\xff',")
    assert host.value("import os; sorted(os.listdir('/inputs'))") == "['raw.bin', 'x.csv']"
    assert host.value("open('/inputs/x.csv').read() == context") == "True"
    assert host.value("open('/inputs/raw.bin', 'rb').read() == raw") == "True"
    assert host.value("import csv; list(csv.reader(open('/inputs/x.csv')))") == "[['a', 'b'], ['1', 'é']]"


def test_what_nobody_looks_at_is_not_asked_for(host: Host) -> None:
    host.load("context", "x" * MIB, "x.txt")
    host.value("len(context), __import__('os').listdir('/inputs')")
    assert host.asked == []


def test_a_value_that_came_as_json_is_the_file_of_its_text(host: Host) -> None:
    host.load("context", JsonText.of({"a": [1, 2]}), "x.json")
    assert host.value("import json; context == json.load(open('/inputs/x.json'))") == "True"


@pytest.mark.parametrize("name", ["with space.txt", "é漢.txt", "-rf", "a'b\".csv", "x" * 255])
def test_a_file_is_called_as_it_is(host: Host, name: str) -> None:
    host.load("context", "there", name)
    assert host.value(f"open('/inputs/' + {name!r}).read()") == "'there'"


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/inputs/x.csv', 'w')",
        "open('/inputs/x.csv', 'a')",
        "open('/inputs/x.csv', 'r+')",
        "open('/inputs/x.csv', 'wb')",
    ],
)
def test_an_input_is_read_only(host: Host, attempt: str) -> None:
    host.load("context", "data", "x.csv")
    result = host.run(attempt)
    assert result.error is not None
    assert "PermissionError" in str(result.error)
    assert host.value("oct(__import__('os').stat('/inputs/x.csv').st_mode)") == "'0o100444'"
    assert host.value("open('/inputs/x.csv').read()") == "'data'"


def test_tools_of_the_library_take_it(host: Host) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.txt", "inside")
    host.load("context", packed.getvalue(), "x.zip")
    assert host.value("import zipfile; zipfile.ZipFile('/inputs/x.zip').read('inner.txt')") == "b'inside'"
    assert host.value("import shutil; shutil.copy('/inputs/x.zip', '/tmp/y.zip')") == "'/tmp/y.zip'"
    assert host.value("open('/tmp/y.zip', 'rb').read() == context") == "True"
    assert host.value(
        "import mmap\nf = open('/inputs/x.zip')\nlen(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))"
    ) == str(len(packed.getvalue()))


def test_the_folder_is_the_cells_to_change_and_an_input_that_finds_none_is_bound(host: Host) -> None:
    host.load("context", "one", "x")
    host.value("import shutil; shutil.rmtree('/inputs')")
    host.load("context", "two", "x")
    assert host.value("context") == "'two'"


def test_an_input_of_a_name_takes_the_place_of_the_last_and_open_ones_are_told(host: Host) -> None:
    host.load("context", "one", "x")
    host.value("f = open('/inputs/x', 'rb', buffering=0)\nf.read(1)")
    host.load("context", "two", "x")
    assert host.value("open('/inputs/x').read()") == "'two'"
    assert "FileNotFoundError" in str(host.run("f.read(1)").error)


# -- those that stay where they are ------------------------------------------------------------------


def test_a_lazy_text_says_what_it_is_without_being_read(lazy: Host) -> None:
    size = len(TEXT.encode())
    assert lazy.value("context") == f"<LazyText of {size} bytes: /inputs/big.log>"
    assert lazy.value("context.size, bool(context), SHOW_VARS()") == f"({size}, True, {{}})"
    assert all(not asked.length for asked in lazy.asked)


def test_its_length_is_of_characters_counted_once(lazy: Host) -> None:
    assert lazy.value("len(context)") == str(len(TEXT))
    before = len(lazy.asked)
    assert lazy.value("len(context)") == str(len(TEXT))
    assert len(lazy.asked) == before


HASH = """
import hashlib
def hash_of(text): return len(text), hashlib.sha256(text.encode()).hexdigest()[:8]
"""


def hash_of(text: str) -> tuple[int, str]:
    return len(text), hashlib.sha256(text.encode()).hexdigest()[:8]


LENGTH = len(TEXT)
PLACES = [
    0,
    1,
    7,
    1000,
    30_000,
    500_000,
    700_001,
    LENGTH - 1,
    LENGTH,
    LENGTH + 5,
    -1,
    -17,
    -LENGTH,
    -LENGTH - 3,
]


@pytest.mark.parametrize("start", [None, *PLACES])
def test_slices_are_those_of_the_text(lazy: Host, start: int | None) -> None:
    ends = [None, *PLACES, (start or 0) + 10, (start or 0) + 60_000]
    given = [(start, end) for end in ends]
    told = lazy.value(f"{HASH}\n[hash_of(context[a:b]) for a, b in {given}]")
    assert told == str([hash_of(TEXT[a:b]) for a, b in given])


@pytest.mark.parametrize("step", [2, 3, -1, -7])
def test_slices_with_a_step_are_those_of_the_text(lazy: Host, step: int) -> None:
    for start, end in ((None, 1000), (500, 20), (70_000, 60_000), (20, 90), (-20, None)):
        wanted = hash_of(TEXT[slice(start, end, step)])
        assert lazy.value(f"{HASH}\nhash_of(context[{start}:{end}:{step}])") == repr(wanted)


def test_the_beginning_and_the_end_are_read_alone(lazy: Host) -> None:
    lazy.value("context[:100], context[-100:]")
    assert sum(asked.length for asked in lazy.asked) < 4 * MIB


def test_single_characters_and_places_that_are_none(lazy: Host) -> None:
    assert lazy.value("context[8], context[-2], context[700_000]") == str((TEXT[8], TEXT[-2], TEXT[700_000]))
    for place in (LENGTH, -LENGTH - 1):
        assert "IndexError" in str(lazy.run(f"context[{place}]").error)


def test_iteration_gives_the_lines(lazy: Host) -> None:
    assert lazy.value("sum(1 for line in context), next(iter(context))") == str((60_000, "0\n"))
    assert lazy.value("[line for line in context][-1]") == repr(TEXT.splitlines(keepends=True)[-1])
    assert lazy.value("s = context.splitlines()\n(next(s), next(s), sum(1 for _ in s))") == str(
        (*TEXT.splitlines()[:2], 59_998)
    )
    assert lazy.value("for number, line in enumerate(context):\n    if number == 5: break\nline") == repr(
        "5: é 漢 🙂 line\n"
    )


@pytest.mark.parametrize(
    "needle", ["0\n", "59999", "漢 🙂 line\n4", "é", "nowhere", "x" * 5_000, "🙂 line\n29999\n"]
)
def test_find_count_and_in_are_those_of_the_text(lazy: Host, needle: str) -> None:
    told = lazy.value(
        f"n = {needle!r}\ncontext.find(n), context.count(n), n in context, context.find(n, 400_000)"
    )
    assert told == str((TEXT.find(needle), TEXT.count(needle), needle in TEXT, TEXT.find(needle, 400_000)))


def test_find_within_bounds_is_that_of_the_text(lazy: Host) -> None:
    for start, end in ((0, 100), (50, 60), (-100, None), (-100, -3), (900_000, 100), (10, 10**12)):
        assert lazy.value(f"context.find('9', {start}, {end})") == str(TEXT.find("9", start, end))
        assert lazy.value(f"context.count('9', {start}, {end})") == str(TEXT.count("9", start, end))
    assert lazy.value("context.find('')") == "0"
    assert "ValueError" in str(lazy.run("context.index('nowhere')").error)


def test_beginnings_and_ends_are_compared(lazy: Host) -> None:
    assert lazy.value("context.startswith('0\\n1: é'), context.startswith('x')") == "(True, False)"
    assert lazy.value("context.endswith('🙂 line\\n'), context.endswith('x')") == "(True, False)"


def test_patterns_are_matched_by_windows_and_say_where(lazy: Host) -> None:
    wanted = [(m.start(), m.group(1)) for m in re.finditer(r"^(\d*77): ", TEXT, re.M)]
    told = "[(m.start(), m.group(1)) for m in context.finditer(r'^(\\d*77): ', re.M, window=50_000)]"
    assert lazy.value("import re\n" + told) == str(wanted)[:20_000] or lazy.value(
        f"import re\nlen({told})"
    ) == str(len(wanted))
    assert lazy.value(f"import re\nhash(tuple({told})) == hash(tuple({wanted!r}))") == "True"
    assert lazy.value("re.search(r'5999[0-9]: ', context).span()") == str(
        re.search(r"5999[0-9]: ", TEXT).span()
    )  # type: ignore[union-attr]
    assert lazy.value("re.findall(r'\\n(1234\\d): (.)', context)") == str(
        re.findall(r"\n(1234\d): (.)", TEXT)
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "str(context)",
        "context.lower()",
        "context.split('\\n')",
        "context + 'x'",
        "f'{context}'",
        "context.replace('a', 'b')",
    ],
)
def test_what_would_take_all_of_it_says_what_to_do_instead(lazy: Host, attempt: str) -> None:
    error = told_of(lazy.run(attempt))
    assert "MemoryError" in error
    assert "for line in context" in error
    assert lazy.value("1 + 1") == "2"


def test_a_slice_larger_than_the_memory_says_what_to_do_instead(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "sparse.log"
    path.touch()
    os.truncate(path, 300 * MIB)
    host.load("context", InputFile(path), "sparse.log")
    error = told_of(host.run("context[:]"))
    assert "MemoryError" in error
    assert "for line in context" in error
    assert host.value("len(context), context.count('\\0')") == str((300 * MIB, 300 * MIB))
    assert host.session.memory_bytes < 100 * MIB


def test_places_beyond_two_gibibytes_work(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "sparse.log"
    with path.open("wb") as file:
        os.truncate(path, 5 << 30)
        file.seek((5 << 30) - 20)
        file.write(b"the needle\n")
    host.load("context", InputFile(path, as_bytes=True), "sparse.log")
    at = (5 << 30) - 20
    assert host.value("len(context)") == str(5 << 30)
    assert host.value(f"context[{at}:{at + 10}], context[{at}]") == str((b"the needle", ord("t")))
    assert host.value(f"context.find(b'needle', {at - 1000})") == str(at + 4)
    told = host.value(
        f"f = open('/inputs/sparse.log', 'rb')\nf.seek({at})\nf.read(10), f.tell(), f.seek(0, 2)"
    )
    assert told == str((b"the needle", at + 10, 5 << 30))


def test_what_is_no_utf_8_is_replaced(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(b"good \xff bad\nnext\n")
    host.load("context", InputFile(path), "odd")
    assert host.value("context[:], list(context)") == str(
        ("good \ufffd bad\nnext\n", ["good \ufffd bad\n", "next\n"])
    )


def test_its_bytes_are_there_as_well(lazy: Host) -> None:
    data = TEXT.encode()
    assert lazy.value(
        "b = context.bytes\nlen(b), b[5:20], b.find('漢'.encode()), b.count(b'line'), b'x' in b"
    ) == str((len(data), data[5:20], data.find("漢".encode()), data.count(b"line"), b"x" in data))
    assert lazy.value("b[20:5:-2], b[-3:], next(iter(b)), b.startswith(b'0'), b.endswith(b'x')") == str(
        (data[20:5:-2], data[-3:], b"0\n", True, False)
    )


def test_a_file_that_changes_is_told_in_the_guest(lazy: Host, tmp_path: Path) -> None:
    lazy.value("context[:10]")
    (tmp_path / "big.log").write_text("other")
    for attempt in ("context[500_000:500_010]", "open('/inputs/big.log').read(5)", "'nowhere' in context"):
        assert "stale" in str(lazy.run(attempt).error).lower()


def test_a_file_that_is_open_goes_on_in_the_next_cell_and_in_a_fork(lazy: Host) -> None:
    lazy.value("f = open('/inputs/big.log', encoding='utf-8')\nfor _ in range(10): f.readline()")
    snapshot = drive(lazy.session.snapshot())
    assert snapshot is not None
    assert lazy.value("f.readline()") == repr(TEXT.splitlines(keepends=True)[10])
    lazy.session.restore(snapshot)
    assert lazy.value("f.readline(), context[:3]") == str((TEXT.splitlines(keepends=True)[10], TEXT[:3]))


def test_lines_are_told_where_they_are(lazy: Host) -> None:
    starts = [0]
    for line in TEXT.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = lazy.value("context.find('\\n12346: ')")
    assert bisect.bisect(starts, int(found)) == 12_346

"""A session's files from its host's side, in this process and in a worker's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rlm_wasm import Policy, Sandbox
from rlm_wasm.api.sandbox import SandboxSession
from rlm_wasm.engine.session_files import PART_BYTES
from rlm_wasm.errors import BoundaryViolation, GuestException, UsageError

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("guest")]

FILES_BYTES_MAX = 4 << 20
FILES_MAX = 200


@pytest.fixture(params=["inline", "shared"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[SandboxSession]:
    values = Policy.open("standard").to_mapping()
    values["sandbox"] |= {
        "isolation": request.param, "files_bytes_max": FILES_BYTES_MAX, "files_max": FILES_MAX,
        "memory_bytes_max": 128 << 20, "context_bytes_max": 32 << 20, "whole_context_chars_max": 0,
    }  # fmt: skip
    async with Sandbox(Policy.from_mapping(values)) as box, await box.session() as session:
        yield session


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3_000_000])
@pytest.mark.anyio
async def test_what_is_written_is_read_by_both_sides(session: SandboxSession, size: int) -> None:
    data = bytes(k % 251 for k in range(size))
    await session.write_file("/inputs/deep/er/f.bin", data)
    assert (await session.exec("import os; os.path.getsize('/inputs/deep/er/f.bin')")).result == str(size)
    assert await session.read_file("/inputs/deep/er/f.bin") == data


@pytest.mark.anyio
async def test_how_long_a_cell_may_be_says_nothing_of_files_and_values() -> None:
    values = Policy.open("standard").to_mapping()
    values["sandbox"]["isolation"] = "inline"
    values["cell"]["source_bytes_max"] = 8
    async with Sandbox(Policy.from_mapping(values)) as box, box.session() as session:
        await session.write_file("/out/f", b"some")
        assert await session.read_file("/out/f") == b"some"
        assert [file.path for file in await session.list_files("/out")] == ["/out", "/out/f"]
        await session.set("rows", [1, 2])
        assert await session.get("rows") == [1, 2]
        with pytest.raises(UsageError, match=r"cell\.source_bytes_max is 8"):
            await session.exec("sum(rows) + 1")


@pytest.mark.anyio
async def test_the_guests_files_are_listed_as_they_lie(session: SandboxSession) -> None:
    made = "import os; os.mkdir('/out/d'); open('/out/d/f', 'w').write('xyz'); os.symlink('/tmp', '/out/l')"
    assert (await session.exec(made)).outcome == "completed"
    found = await session.list_files("/out")
    assert [(file.path, file.kind) for file in found] == [
        ("/out", "folder"),
        ("/out/d", "folder"),
        ("/out/d/f", "file"),
        ("/out/l", "link"),
    ]
    assert found[2].size == 3
    assert [file.path for file in await session.list_files("/out/d/f")] == ["/out/d/f"]


@pytest.mark.anyio
async def test_a_listing_has_all_names_or_is_none(session: SandboxSession) -> None:
    """A file may have more names than there may be files."""
    made = """
import os
open('/out/f', 'w').close()
for k in range({}):
    os.link('/out/f', f'/out/{{k}}')
"""
    assert (await session.exec(made.format(FILES_MAX - 2))).outcome == "completed"
    assert len(await session.list_files("/out")) == FILES_MAX
    assert (await session.exec("os.link('/out/f', '/out/more')")).outcome == "completed"
    with pytest.raises(UsageError, match=r"more than 200 names, which is sandbox\.files_max"):
        await session.list_files("/out")


@pytest.mark.anyio
async def test_names_of_all_kinds_go_both_ways(session: SandboxSession) -> None:
    for path in ("/tmp/zwölf – 十二", "/tmp/'\"\\n", "/tmp/\udcff", "/tmp/a b"):
        await session.write_file(path, b"x")
        assert await session.read_file(path) == b"x"
        assert path in {file.path for file in await session.list_files("/tmp")}


@pytest.mark.anyio
async def test_it_costs_no_variable_and_no_result(session: SandboxSession) -> None:
    await session.exec("41 + 1")
    await session.write_file("/tmp/f", b"x")
    await session.read_file("/tmp/f")
    assert (await session.exec("_")).result == "42"
    assert (await session.exec("[name for name in dir() if 'file' in name]")).result == "[]"


@pytest.mark.anyio
async def test_what_is_not_there_is_the_guests_own_error(session: SandboxSession) -> None:
    for path, kind in (("/absent", "FileNotFoundError"), ("/tmp", "IsADirectoryError")):
        with pytest.raises(GuestException) as caught:
            await session.read_file(path)
        assert caught.value.type_name == kind
    with pytest.raises(GuestException, match="/absent"):
        await session.list_files("/absent")
    await session.write_file("/tmp/f", b"")
    with pytest.raises(GuestException, match="FileExistsError"):
        await session.write_file("/tmp/f/g", b"")


@pytest.mark.anyio
async def test_sizes_and_paths_are_checked_before_the_guest_is_asked(session: SandboxSession) -> None:
    with pytest.raises(UsageError, match=r"sandbox\.files_bytes_max"):
        await session.write_file("/tmp/f", bytes(FILES_BYTES_MAX + 1))
    for path in ("tmp/f", "", "/a\0b"):
        with pytest.raises(UsageError, match="absolute path"):
            await session.read_file(path)
    with pytest.raises(UsageError, match="bytes"):
        await session.write_file("/tmp/f", "text")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_file_larger_than_wanted_is_not_read_to_its_end(session: SandboxSession) -> None:
    await session.write_file("/tmp/f", bytes(2_000_000))
    with pytest.raises(UsageError, match="more than 1000 bytes"):
        await session.read_file("/tmp/f", bytes_max=1_000)


@pytest.mark.parametrize(
    "left",
    [
        "import threading\ndef tick():\n    print('tick')\n    threading.Timer(0.01, tick).start()\ntick()",
        "import threading\ndef late():\n    threading.Timer(0.01, late).start()\n    1 / 0\nlate()",
        "import sys\ndef trace(*_):\n    print('traced' * 9)\n    return trace\nsys.settrace(trace)",
        "import sys\ndef trace(*_):\n    print('traced' * 9)\nsys.setprofile(trace)",
        "import rlm_files\ntell = rlm_files.tell\ndef loud(*a):\n    tell(*a)\n    print('told')\n"
        "rlm_files.tell = loud",
    ],
)
@pytest.mark.anyio
async def test_what_code_left_running_costs_none_of_its_files(session: SandboxSession, left: str) -> None:
    assert (await session.exec(left)).outcome in ("completed", "guest_exception")
    await session.write_file("/out/f", b"the work")
    assert [file.path for file in await session.list_files("/out")] == ["/out", "/out/f"]
    assert await session.read_file("/out/f") == b"the work"
    with pytest.raises(GuestException, match="/absent"):
        await session.read_file("/absent")


@pytest.mark.threat("T-110")
@pytest.mark.anyio
async def test_a_guest_that_lies_about_its_files_harms_nobody(session: SandboxSession) -> None:
    """It may send nonsense, other paths, or a file without end: typed, bounded, and the session lives."""
    await session.exec("import rlm_files, _rlm")
    for told in ("b'no sense'", "b'\\xff' * 100", "b'[' * 100000"):
        await session.exec(f"rlm_files.tell = rlm_files.get = lambda *a: _rlm.emit(1, {told})")
        with pytest.raises(BoundaryViolation):
            await session.list_files("/out")
        with pytest.raises(BoundaryViolation):
            await session.read_file("/out/f")
    await session.exec("import binascii")
    await session.exec(
        "rlm_files.get = lambda p, o, n: _rlm.emit(1, binascii.b2a_base64(bytes(n), newline=False))"
    )
    with pytest.raises(UsageError, match=r"sandbox\.files_bytes_max"):
        await session.read_file("/out/endless")
    assert (await session.exec("1 + 1")).result == "2"


def test_the_calls_that_are_not_async_have_files_too(strict: Policy) -> None:
    with Sandbox(strict).sync() as box, box.session() as session:
        session.write_file("/tmp/f", b"x")
        assert session.read_file("/tmp/f", bytes_max=1) == b"x"
        assert [file.path for file in session.list_files("/tmp")] == ["/tmp", "/tmp/f"]

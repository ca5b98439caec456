"""Files of `rlm-wasm exec`: into the guest with --in, out of it with --out, and nowhere else."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.cli.execute import _copy_out
from rlm_wasm.cli.out_folder import NAMES_MAX, Copied, copy_and_tell, copy_out
from rlm_wasm.errors import HostExhausted, InternalError, WorkerLost
from rlm_wasm.protocol.file_listing import GuestFile
from rlm_wasm.results import CellResult
from tests.support.command_line import document, rlm_wasm

pytestmark = pytest.mark.guest


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def run(source: str, *arguments: str | Path) -> tuple[int, str, str]:
    ended = rlm_wasm("exec", "-", *map(str, arguments), stdin=source)
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


def test_files_go_in_and_what_the_code_leaves_comes_out(tmp_path: Path) -> None:
    (tmp_path / "a b.csv").write_bytes(b"x,y\n1,2\n")
    source = """
import csv, os
rows = list(csv.DictReader(open('/inputs/a b.csv')))
os.makedirs('/out/deep/er')
open('/out/deep/er/sum.txt', 'w').write(str(int(rows[0]['x']) + int(rows[0]['y'])))
open('/out/large.bin', 'wb').write(bytes(range(256)) * 4000)
open('/tmp/not-this', 'w').close()
os.listdir('/inputs')
"""
    code, shown, told = run(source, "--in", tmp_path / "a b.csv", "--out", tmp_path / "new" / "out")
    assert (code, shown) == (0, "['a b.csv']\n")
    assert told == f"2 files copied into {tmp_path / 'new' / 'out'}\n"
    assert tree(tmp_path / "new" / "out") == {
        "deep/er/sum.txt": b"3",
        "large.bin": bytes(range(256)) * 4000,
    }


def test_a_folder_goes_in_with_its_paths_and_without_what_is_private(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "a" / "b").mkdir(parents=True)
    (docs / "a" / "b" / "x.bin").write_bytes(b"\0\xff")
    (docs / "x.txt").write_text("one")
    (docs / ".env").write_text("KEY")
    (docs / "link").symlink_to(tmp_path)
    source = "import os\nsorted(os.walk('/inputs')), open('/inputs/docs/a/b/x.bin', 'rb').read()"
    code, shown, told = run(source, "--in", docs)
    tree_of_it = [
        ("/inputs", ["docs"], []),
        ("/inputs/docs", ["a"], ["x.txt"]),
        ("/inputs/docs/a", ["b"], []),
        ("/inputs/docs/a/b", [], ["x.bin"]),
    ]
    assert (code, shown) == (0, str((tree_of_it, b"\0\xff")) + "\n")
    assert told == f"{docs}: 2 files taken; left out: .env: private (--all takes it); link: a link\n"
    code, _, told = run("1", "--in", docs, "--in", docs)
    assert code == 2
    assert "two files or folders are called 'docs'" in told


@pytest.mark.parametrize("within", ["", "new/er"])
def test_a_folder_that_cannot_be_is_told_before_anything_runs(tmp_path: Path, within: str) -> None:
    (tmp_path / "file").write_text("kept")
    code, shown, told = run("print('ran')", "--out", tmp_path / "file" / within)
    assert (code, shown) == (2, "")
    assert (
        told == f"error: --out: cannot write {tmp_path / 'file' / within}: {tmp_path / 'file'} is no folder\n"
    )
    assert tree(tmp_path) == {"file": b"kept"}


def test_what_failed_code_left_comes_out_too(tmp_path: Path) -> None:
    code, _, _ = run("open('/out/f', 'w').write('so far'); 1/0", "--out", tmp_path)
    assert (code, tree(tmp_path)) == (1, {"f": b"so far"})


def test_without_out_in_the_guest_there_is_nothing_to_copy(tmp_path: Path) -> None:
    code, _, told = run("import os; os.rmdir('/out')", "--out", tmp_path)
    assert (code, told) == (0, f"0 files copied into {tmp_path}\n")


@pytest.mark.threat("T-110")
def test_no_link_is_followed_neither_the_guests_nor_one_in_the_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "kept").write_bytes(b"kept")
    (folder / "f").symlink_to(outside / "kept")
    source = """
import os
open('/out/f', 'w').write('new')
os.symlink('/etc/passwd', '/out/l')
os.symlink('/', '/out/d')
"""
    code, _, told = run(source, "--out", folder)
    assert (code, "1 files copied" in told, "not copied" in told) == (0, True, True)
    assert tree(folder) == {"f": b"new"}
    assert (outside / "kept").read_bytes() == b"kept"
    (folder / "sub").symlink_to(outside)
    code, _, told = run(
        "import os; os.mkdir('/out/sub'); open('/out/sub/evil', 'w').close()", "--out", folder
    )
    assert code == 2
    assert "cannot write" in told
    assert tree(outside) == {"kept": b"kept"}


@pytest.mark.threat("T-110")
def test_paths_that_a_guest_made_up_write_nothing_outside(tmp_path: Path) -> None:
    """A guest that has rewritten its own answers lists what it likes."""
    for path in ("/out/../../evil", "/etc/evil", "/out//evil", "/out/./evil", "/out"):
        told = {"paths": [path.encode().hex()], "kinds": "f", "sizes": [1], "modified_ns": [0]}
        source = (
            "import json, rlm_files, _rlm\n"
            f"rlm_files.tell = lambda *a: _rlm.emit(1, json.dumps({told}).encode())\n"
            "rlm_files.get = lambda *a: _rlm.emit(1, b'ZXZpbA==')"
        )
        run(source, "--out", tmp_path / "out" / "er")
        assert tree(tmp_path) == {}
        assert not Path("/etc/evil").exists()


@pytest.mark.anyio
@pytest.mark.threat("T-110")
async def test_copying_from_a_guest_that_takes_its_time_comes_to_an_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def list_files(path: str) -> tuple[GuestFile, ...]:
        return (GuestFile("/out/f", "file", 1, 0),)

    async def read_file(path: str, *, bytes_max: int | None = None) -> bytes:
        await anyio.sleep_forever()
        return b""

    assert not await copy_and_tell(list_files, read_file, tmp_path, bytes_max=10, seconds_max=0.01)
    assert "it took more than 0.01 seconds" in capfd.readouterr().err


LIES = """
import json, os, _rlm, rlm_files
def tell(path, most):
    paths = [(b'/out/%d' % i + b'/a' * 2000 + b'/f').hex() for i in range(20)]
    told = {"paths": paths, "kinds": "f" * 20, "sizes": [0] * 20, "modified_ns": [0] * 20}
    _rlm.emit(1, json.dumps(told).encode())
rlm_files.tell, rlm_files.get = tell, lambda *a: None
print("found")
"""


@pytest.mark.threat("T-110")
def test_folders_that_no_listing_counts_are_not_made(tmp_path: Path) -> None:
    code, shown, told = run(LIES, "--out", tmp_path)
    assert (code, shown) == (2, "found\n")
    assert "not the folder it is in" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.threat("T-110")
def test_a_name_that_this_machine_cannot_write_costs_neither_the_answer_nor_the_rest(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to("/")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "taken").mkdir()
    source = """
import os
for name in ('a', 'euro \\u20ac', 'linked/f', 'pipe/f', 'taken', 'z'):
    os.makedirs(os.path.dirname(f'/out/{name}'), exist_ok=True)
    open(f'/out/{name}', 'w').write(name)
'the answer'
"""
    ended = rlm_wasm(
        "exec", "-", "--json", "--out", tmp_path, stdin=source,
        LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0",
    )  # fmt: skip
    told = ended.stderr.decode()
    assert document(ended)["result"] == "'the answer'"
    assert ended.returncode == 2
    assert told.startswith(
        f"3 files copied into {tmp_path}\nerror: 3 not copied: cannot write '/out/linked/f'"
    )
    assert tree(tmp_path) == {"a": b"a", "euro \u20ac": "euro \u20ac".encode(), "z": b"z"}


@pytest.mark.anyio
async def test_an_interrupt_ends_the_copying_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Session:
        async def list_files(self, path: str) -> tuple[GuestFile, ...]:
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()
            return ()

        read_file = None

    session: Any = Session()
    with anyio.fail_after(60):
        assert not await _copy_out(session, CellResult(), tmp_path, 10)
    assert "not all that the code left in /out was copied" in capfd.readouterr().err


@pytest.mark.anyio
@pytest.mark.parametrize(
    "problem",
    [
        HostExhausted("no room"),
        WorkerLost("gone"),
        InternalError("broken"),
        ValueError("broken"),
        OSError(5, "x"),
    ],
)
async def test_whatever_copying_meets_is_told_and_goes_no_further(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], problem: Exception
) -> None:
    async def list_files(path: str) -> tuple[GuestFile, ...]:
        raise problem

    async def read_file(path: str, *, bytes_max: int | None = None) -> bytes:
        raise AssertionError(path)

    assert not await copy_and_tell(list_files, read_file, tmp_path, bytes_max=10)
    assert str(problem) in capfd.readouterr().err


@pytest.mark.anyio
async def test_what_cannot_be_named_or_lies_too_deep_is_left_and_the_rest_is_copied(tmp_path: Path) -> None:
    deep = ["/out" + "/a" * depth for depth in range(1, NAMES_MAX + 1)]
    found = (
        *(GuestFile(path, "folder", 0, 0) for path in deep),
        GuestFile(f"{deep[-2]}/f", "file", 1, 0),
        GuestFile(f"{deep[-1]}/f", "file", 1, 0),
        GuestFile("/out/\ud800", "file", 1, 0),
    )

    async def list_files(path: str) -> tuple[GuestFile, ...]:
        return found

    async def read_file(path: str, *, bytes_max: int | None = None) -> bytes:
        return b"x"

    copied = await copy_out(list_files, read_file, tmp_path, bytes_max=10)
    assert copied == Copied(1, (f"{deep[-1]}/f",), (("/out/\ud800", "it is no name"),))
    assert tree(tmp_path) == {f"{deep[-2].removeprefix('/out/')}/f": b"x"}


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    code, _, told = run("1", "--in", tmp_path / "absent")
    assert code == 2
    assert told.startswith("error: cannot read")
    (tmp_path / "f").write_bytes(b"")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"")
    code, _, told = run("1", "--in", tmp_path / "f", "--in", tmp_path / "d" / "f")
    assert (code, told) == (2, "error: two files or folders are called 'f'\n")

"""Packages go into a real guest: what they do there is done there, and what does not work is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.images import sealing
from rlm_wasm.images.sealing import seal_packages
from rlm_wasm.images.wheel import read_wheel
from rlm_wasm.vm.compilation import compile_native
from rlm_wasm.vm.instance import Program
from rlm_wasm.vm.native_code import load_native
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import boundary_limits, completed, run_cell, session_limits
from tests.support.wheels import make_wheel

pytestmark = [
    pytest.mark.guest,
    pytest.mark.threat("T-272"),
    pytest.mark.usefixtures("guest", "healthy_host"),
]

MODULES = {
    "thing/__init__.py": b"from thing.more import answer\nloads = 0\n",
    "thing/more.py": b"answer = 42\ndef where():\n    raise ValueError('here')\n",
    "thing/data.txt": b"text of the package",
}


@contextmanager
def session_over(files: Mapping[str, bytes], preload: Sequence[str] = ()) -> Iterator[Session]:
    guest = find_guest()
    memory = seal_packages(guest, files, preload)
    program = Program(load_native(native_code(guest.read_code(), compile_native)), memory)
    facts = replace(guest.facts, image_bytes=len(memory))
    try:
        session = Session(program, facts, session_limits(files_max=40), boundary_limits(), lambda n: bytes(n))
        try:
            yield session
        finally:
            session.close()
    finally:
        program.close()


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    return read_wheel(make_wheel(tmp_path_factory.mktemp("wheel"), MODULES)).files


def test_a_package_is_imported_read_and_described_and_its_source_is_there(
    things: Mapping[str, bytes],
) -> None:
    with session_over(things, ("thing",)) as session:
        assert completed(session, "import sys\n'thing.more' in sys.modules").result == "True"
        source = (
            "import thing, importlib.metadata, importlib.resources\n"
            "text = importlib.resources.files('thing').joinpath('data.txt').read_text()\n"
            "thing.answer, importlib.metadata.version('thing'), text"
        )
        assert completed(session, source).result == "(42, '1.0', 'text of the package')"
        source = "import inspect\ninspect.getsource(thing.more.where), thing.more.__file__"
        shown = completed(session, source).result
        assert shown is not None
        assert "raise ValueError('here')" in shown.replace("\\", "")
        assert "/packages/thing/more.py" in shown


def test_no_cell_changes_a_package_and_its_files_take_nothing_of_a_sessions(
    things: Mapping[str, bytes],
) -> None:
    many = {f"thing/part{number}.py": b"x = 1\n" for number in range(60)}
    with session_over({**things, **many}) as session:
        for source in (
            "open('/packages/thing/more.py', 'w')",
            "open('/packages/thing/new.py', 'w')",
            "import os; os.remove('/packages/thing/more.py')",
            "import os; os.rename('/packages', '/tmp/packages')",
            "import os; os.mkdir('/packages/other')",
            "import shutil; shutil.rmtree('/packages')",
        ):
            told = run_cell(session, source)
            assert "Read-only file system" in str(told.error), source
        for number in range(30):
            completed(session, f"open('/tmp/{number}', 'w').close()")
        assert completed(session, "import thing.part59\nthing.part59.x").result == "1"


def test_the_same_packages_are_the_same_memory(things: Mapping[str, bytes]) -> None:
    guest = find_guest()
    hashes = {hashlib.sha256(seal_packages(guest, things, ("thing",))).digest() for _ in range(2)}
    assert len(hashes) == 1


def test_what_code_of_a_package_does_it_does_in_the_guest(tmp_path: Path) -> None:
    """Its import, a .pth, a script and a setup.py: none of them runs here."""
    mark = tmp_path / "mark"
    touches = f"open({str(mark)!r}, 'w')\n".encode()
    files = {
        "thing/__init__.py": b"try:\n    " + touches + b"except OSError:\n    tried = True\n",
        "thing.pth": b"import thing_that_is_not_there\n",
        "setup.py": touches,
        "sitecustomize.py": touches,
        "thing-1.0.data/scripts/run": touches,
    }
    read = read_wheel(make_wheel(tmp_path, files))
    with session_over(read.files, ("thing",)) as session:
        assert completed(session, "import thing\nthing.tried").result == "True"
        assert completed(session, "import sys\n'sitecustomize' in sys.modules").result == "False"
    assert not mark.exists()


WRONG: list[tuple[str, str, type[Exception]]] = [
    ("import nothing_like_that", "No module named 'nothing_like_that'", GuestBuildError),
    ("x = (", "was never closed", GuestBuildError),
    ("open('/tmp/left', 'w').close()", "left files in /tmp: left", GuestBuildError),
    ("x = bytes(2_000_000_000)", "MemoryError", GuestBuildError),
    ("raise ImportError('x' * 100_000)", "ImportError", GuestBuildError),
]


@pytest.mark.parametrize(("source", "told", "kind"), WRONG, ids=[row[0][:24] for row in WRONG])
def test_a_module_that_cannot_be_imported_is_one_line(source: str, told: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        seal_packages(find_guest(), {"thing/__init__.py": source.encode()}, ("thing",))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 3_000


@pytest.mark.parametrize(
    "source",
    ["while True: pass", "import os; os._exit(1)"],
)
def test_a_module_that_does_not_come_back_makes_no_image(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_FUEL", 5_000_000_000)
    with pytest.raises((ArtifactError, GuestBuildError)):
        seal_packages(find_guest(), {"thing/__init__.py": source.encode()}, ("thing",))


def test_there_is_no_host_to_call_while_an_image_is_made() -> None:
    source = b"import _rlm\n_rlm.call(b'{}')\n"
    with pytest.raises((ArtifactError, GuestBuildError), match="host"):
        seal_packages(find_guest(), {"thing/__init__.py": source}, ("thing",))

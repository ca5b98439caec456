"""The gate of wheels: what a good one gives, and that of any other nothing comes through."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.images import wheel as gate
from rlm_wasm.images.wheel import checked_path, read_wheel, require_pure
from tests.support.wheels import make_wheel, record_of, wheel_files, write_zip

MODULES = {"thing/__init__.py": b"answer = 42\n", "thing/data.json": b"{}"}
INFO = "thing-1.0.dist-info"


def refused(path: Path, *words: str) -> bool:
    with pytest.raises(GuestBuildError) as caught:
        read_wheel(path)
    assert path.name in caught.value.message
    return all(word in caught.value.message for word in words)


def test_a_wheel_is_its_name_version_licence_and_files(tmp_path: Path) -> None:
    read = read_wheel(make_wheel(tmp_path, MODULES))
    assert (read.name, read.version, read.licence) == ("thing", "1.0", "MIT")
    assert {name: read.files[name] for name in MODULES} == MODULES
    assert f"{INFO}/METADATA" in read.files


def test_what_is_not_installed_is_left_out_and_what_lies_in_its_data_folder_is_put_where_it_goes(
    tmp_path: Path,
) -> None:
    more = {
        **MODULES,
        "thing-1.0.data/purelib/other.py": b"x = 1\n",
        "thing-1.0.data/scripts/run": b"#!python\n",
        "thing/__pycache__/old.pyc": b"somebody's",
    }
    files = read_wheel(make_wheel(tmp_path, more)).files
    assert files["other.py"] == b"x = 1\n"
    assert not [name for name in files if "scripts" in name or name.endswith(".pyc")]


@pytest.mark.parametrize(
    "tag", ["cp314-cp314-manylinux_2_17_x86_64", "cp314-abi3-any", "py2-none-any", "py3-none-linux_x86_64"]
)
def test_a_wheel_for_a_machine_is_refused_with_a_line_that_says_so(tmp_path: Path, tag: str) -> None:
    assert refused(make_wheel(tmp_path, MODULES, tag=tag), "is not pure Python", tag)


@pytest.mark.parametrize(
    "name",
    [
        "thing.whl",
        "thing-1.0.whl",
        "../thing-1.0-py3-none-any.whl",
        "thing-1.0.zip",
        "",
        "thing-1.0-1/../x-py3-none-any.whl",
        "thing-1.0-py3 -none-any.whl",
    ],
)
def test_what_has_not_the_name_of_a_wheel_is_none(name: str) -> None:
    with pytest.raises(GuestBuildError, match="not the name of a wheel"):
        require_pure(name)


BAD_NAMES = [
    "../outside.py", "a/../../outside.py", "/etc/passwd", "a//b.py", "a/./b.py", "..", "C:/x.py",
    "a\\..\\b.py", "a\nb.py", "a/" * 40 + "b.py", "x" * 300 + ".py", "a/ b.py", "\u202eyp.exe",
]  # fmt: skip


@pytest.mark.threat("T-270")
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_out_of_the_folder_refuses_the_wheel(tmp_path: Path, name: str) -> None:
    assert refused(make_wheel(tmp_path, {**MODULES, name: b"x"}), "is unsafe")


@pytest.mark.threat("T-270")
def test_a_name_with_a_nul_is_not_cut_at_it(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, {**MODULES, "thing/a_b.py": b"x"})
    path.write_bytes(path.read_bytes().replace(b"thing/a_b.py", b"thing/a\0b.py"))
    assert refused(path)


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_below_its_folder(name: str) -> None:
    try:
        path = checked_path(name, "w")
    except GuestBuildError:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert Path("/folder", path).resolve().is_relative_to("/folder")


def _record_lies(path: Path) -> Path:
    return make_wheel(path, MODULES, instead={"thing/__init__.py": b"answer = 43\n"})


def _not_recorded(path: Path) -> Path:
    return make_wheel(path, MODULES, instead={"thing/more.py": b"x = 1\n"})


def _recorded_and_gone(path: Path) -> Path:
    return make_wheel(path, MODULES, instead={"thing/data.json": None})


def _no_record(path: Path) -> Path:
    return make_wheel(path, MODULES, instead={f"{INFO}/RECORD": None})


def _no_hash(path: Path) -> Path:
    files = wheel_files("thing", "1.0", MODULES)
    record = "".join(f"{name},,\n" for name in [*files, f"{INFO}/RECORD"]).encode()
    return make_wheel(path, MODULES, instead={f"{INFO}/RECORD": record})


def _weak_hash(path: Path) -> Path:
    files = wheel_files("thing", "1.0", MODULES)
    record = record_of(files, INFO).replace(b"sha256=", b"md5=")
    return make_wheel(path, MODULES, instead={f"{INFO}/RECORD": record})


def _nonsense_record(path: Path) -> Path:
    return make_wheel(path, MODULES, instead={f"{INFO}/RECORD": b"\xff\xfe,a,b,c\n"})


def _twice(path: Path) -> Path:
    files = wheel_files("thing", "1.0", MODULES)
    members = [*files.items(), (f"{INFO}/RECORD", record_of(files, INFO)), ("thing/__init__.py", b"other")]
    with pytest.warns(UserWarning, match="Duplicate name"):
        return write_zip(path / "thing-1.0-py3-none-any.whl", members)


def _link(path: Path) -> Path:
    link = zipfile.ZipInfo("thing/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    files = wheel_files("thing", "1.0", {**MODULES, "thing/link.py": b"/etc/passwd"})
    members = [(link if name == "thing/link.py" else name, data) for name, data in files.items()]
    return write_zip(
        path / "thing-1.0-py3-none-any.whl", [*members, (f"{INFO}/RECORD", record_of(files, INFO))]
    )


def _library(path: Path) -> Path:
    return make_wheel(path, {**MODULES, "thing/_fast.cpython-314-x86_64-linux-gnu.so": b"no elf at all"})


def _disguised_library(path: Path) -> Path:
    return make_wheel(path, {**MODULES, "thing/data.bin": b"\x7fELF\x02\x01\x01"})


def _file_and_folder(path: Path) -> Path:
    return make_wheel(path, {**MODULES, "thing/data.json/x.py": b"x"})


def _another_package(path: Path) -> Path:
    made = make_wheel(path, MODULES)
    return made.rename(path / "other-1.0-py3-none-any.whl")


def _another_version(path: Path) -> Path:
    made = make_wheel(path, MODULES)
    return made.rename(path / "thing-1.1-py3-none-any.whl")


def _not_purelib(path: Path) -> Path:
    return make_wheel(path, {**MODULES}, instead=_repacked({f"{INFO}/WHEEL": b"Root-Is-Purelib: false\n"}))


def _repacked(changed: dict[str, bytes]) -> dict[str, bytes | None]:
    files = wheel_files("thing", "1.0", MODULES) | changed
    return {**changed, f"{INFO}/RECORD": record_of(files, INFO)}


def _no_zip(path: Path) -> Path:
    made = path / "thing-1.0-py3-none-any.whl"
    made.write_bytes(b"PK\x03\x04 no more than that")
    return made


def _cut(path: Path) -> Path:
    made = make_wheel(path, MODULES)
    made.write_bytes(made.read_bytes()[:-30])
    return made


def _wrong_checksum(path: Path) -> Path:
    made = make_wheel(path, {**MODULES, "thing/stored.py": b"unmistakable"})
    data = bytearray(made.read_bytes())
    at = data.index(b"thing/stored.py") - 16  # of its local header: the checksum
    data[at : at + 4] = b"\0\0\0\0"
    with zipfile.ZipFile(made) as archive:
        central = data.rindex(b"thing/stored.py") - 30
        assert archive.infolist()
    data[central : central + 4] = b"\0\0\0\0"
    made.write_bytes(data)
    return made


HOSTILE: list[tuple[Callable[[Path], Path], str]] = [
    (_record_lies, "not what its RECORD says"), (_not_recorded, "does not list"),
    (_recorded_and_gone, "lists"), (_no_record, "no RECORD"), (_no_hash, "no hash"), (_weak_hash, "no hash"),
    (_nonsense_record, "cannot be read"), (_twice, "twice"), (_link, "not a regular file"),
    (_library, "native code"), (_disguised_library, "native code"), (_file_and_folder, "a file and a folder"),
    (_another_package, "not what its name says"), (_another_version, "not what its name says"),
    (_not_purelib, "not pure Python"), (_no_zip, "damaged"), (_cut, "damaged"), (_wrong_checksum, "damaged"),
]  # fmt: skip


@pytest.mark.threat("T-270")
@pytest.mark.parametrize(("make", "why"), [pytest.param(m, w, id=m.__name__) for m, w in HOSTILE])
def test_a_hostile_wheel_is_refused_whole(tmp_path: Path, make: Callable[[Path], Path], why: str) -> None:
    assert refused(make(tmp_path), why)


@pytest.mark.threat("T-270")
def test_a_file_that_unpacks_to_far_more_than_it_takes_is_refused(tmp_path: Path) -> None:
    assert refused(make_wheel(tmp_path, {**MODULES, "thing/zeros.py": bytes(20 << 20)}), "unpacks to")


@pytest.mark.threat("T-270")
def test_sizes_and_counts_end_where_they_are_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_wheel(tmp_path, {**MODULES, "thing/large.py": b"x = 1\n" * 50})
    for limit, value, why in (
        ("WHEEL_BYTES_MAX", 100, "larger than 100"),
        ("FILES_MAX", 3, "at most 3"),
        ("FILE_BYTES_MAX", 200, "larger than 200"),
        ("UNPACKED_BYTES_MAX", 300, "more than 300"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(gate, limit, value)
            assert refused(made, why)
    read_wheel(made)


@pytest.mark.threat("T-270")
def test_more_files_than_are_allowed_are_not_even_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_wheel(tmp_path, {**MODULES, "thing/large.py": b"x = 1\n" * 50})
    opened: list[object] = []

    class Opened(zipfile.ZipFile):
        def _RealGetContents(self) -> None:  # makes an object of each entry
            opened.append(self)
            super()._RealGetContents()  # type: ignore[misc]

    monkeypatch.setattr(zipfile, "ZipFile", Opened)
    read_wheel(made)
    assert len(opened) == 1
    monkeypatch.setattr(gate, "FILES_MAX", 3)
    assert refused(made, "at most 3")
    assert len(opened) == 1


@pytest.mark.threat("T-270")
def test_a_size_that_is_a_lie_is_noticed_while_it_is_read(tmp_path: Path) -> None:
    made = make_wheel(tmp_path, {**MODULES, "thing/large.py": b"x = 1\n" * 50})
    data = bytearray(made.read_bytes())
    for start in (data.index(b"thing/large.py") - 8, data.rindex(b"thing/large.py") - 22):
        assert struct.unpack("<I", data[start : start + 4])[0] == 300
        data[start : start + 4] = struct.pack("<I", 10)
    made.write_bytes(data)
    assert refused(made, "damaged")


@settings(max_examples=40)
@given(st.binary(max_size=300), st.integers(0, 2_000))
def test_damage_anywhere_is_one_error_or_none(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("wheel")
    made = make_wheel(folder, MODULES)
    data = made.read_bytes()
    made.write_bytes(data[:at] + noise + data[at + len(noise) :])
    try:
        read = read_wheel(made)
    except GuestBuildError:
        return
    assert {name: read.files[name] for name in MODULES} == MODULES


def test_a_licence_says_nothing_to_a_terminal(tmp_path: Path) -> None:
    about = wheel_files("thing", "1.0", {})[f"{INFO}/METADATA"]
    odd = about.replace(b": MIT", b": MIT\x1b]0;owned\x07\x1b[2J")
    path = make_wheel(tmp_path, {**MODULES, f"{INFO}/METADATA": odd})
    assert read_wheel(path).licence == "MIT\ufffd]0;owned\ufffd\ufffd[2J"

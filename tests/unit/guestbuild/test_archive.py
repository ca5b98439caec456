"""Unpacking: what comes out is what went in, and nothing lands outside."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.archive import below, unpack_deb, unpack_tar
from tests.unit.guestbuild.support import deb, member, tar


def test_a_package_is_unpacked_with_modes_links_and_times(tmp_path: Path) -> None:
    package = deb(
        tmp_path / "a.deb",
        member("./usr/bin/tool", b"tool", mode=0o4755),
        member("./usr/bin/alias", type=tarfile.SYMTYPE, linkname="tool"),
        member("./usr/lib/same", type=tarfile.LNKTYPE, linkname="./usr/bin/tool"),
        member("./usr/share/text", b"text"),
    )
    unpack_deb(package, tmp_path / "out")
    tool = tmp_path / "out/usr/bin/tool"
    assert tool.read_bytes() == b"tool"
    assert tool.stat().st_mode & 0o7777 == 0o755
    assert tool.stat().st_mtime == 1_000_000_000
    assert (tmp_path / "out/usr/bin/alias").readlink() == Path("tool")
    assert (tmp_path / "out/usr/lib/same").read_bytes() == b"tool"
    assert (tmp_path / "out/usr/share/text").stat().st_mode & 0o777 == 0o644


def test_only_what_is_kept_is_unpacked_under_its_new_name(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", member("top/a.c", b"a"), member("top/doc/b", b"b"), mode="w:gz")

    def keep(name: str) -> str | None:
        return name.removeprefix("top/") if name.endswith(".c") else None

    unpack_tar(archive, tmp_path / "out", keep)
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["a.c"]


def test_below_keeps_whole_folders_only(tmp_path: Path) -> None:
    keep = below("usr/lib")
    assert [keep(name) for name in ("usr/lib", "usr/lib/a", "usr/libexec/a", "usr")] == [
        "usr/lib", "usr/lib/a", None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside", b"x"),
        member("/outside", b"x"),
        member("a/../../outside", b"x"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("link", type=tarfile.SYMTYPE, linkname="../outside"),
        member("a/link", type=tarfile.SYMTYPE, linkname="../../outside"),
        member("hard", type=tarfile.LNKTYPE, linkname="../outside"),
        member("hard", type=tarfile.LNKTYPE, linkname="absent"),
        member("pipe", type=tarfile.FIFOTYPE),
        member("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    ],
    ids=lambda bad: f"{bad[0].name}-{bad[0].linkname}",
)
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes]) -> None:
    (tmp_path / "outside").write_bytes(b"untouched")
    with pytest.raises(GuestBuildError, match=r"unsafe|damaged"):
        unpack_tar(tar(tmp_path / "a.tar.xz", bad), tmp_path / "out")
    assert (tmp_path / "outside").read_bytes() == b"untouched"
    assert [p for p in (tmp_path / "out").rglob("*") if not p.is_dir()] == []


def test_nothing_is_written_through_a_link_that_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GuestBuildError, match="unsafe"):
        unpack_tar(tar(tmp_path / "a.tar.xz", member("a/b", b"x")), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_over_a_link_cannot_climb_out(tmp_path: Path) -> None:
    """By its name alone a/b/out stays inside; a/b being a link to a, it does not."""
    archive = tar(
        tmp_path / "a.tar.xz",
        member("a/file", b"x"),
        member("a/b", type=tarfile.SYMTYPE, linkname="."),
        member("a/b/out", type=tarfile.SYMTYPE, linkname="../../outside"),
    )
    with pytest.raises(GuestBuildError, match="unsafe"):
        unpack_tar(archive, tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 7, 40, 200, -1])
def test_a_truncated_package_is_a_clear_error(tmp_path: Path, cut: int) -> None:
    package = deb(tmp_path / "a.deb", member("./usr/bin/tool", b"tool" * 1000))
    package.write_bytes(package.read_bytes()[:cut])
    with pytest.raises(GuestBuildError, match=r"a\.deb is (damaged|not a Debian package)"):
        unpack_deb(package, tmp_path / "out")


def test_damaged_compression_is_a_clear_error(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.xz", member("a", bytes(range(256)) * 999))
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    archive.write_bytes(damaged)
    with pytest.raises(GuestBuildError, match=r"a\.tar\.xz is damaged"):
        unpack_tar(archive, tmp_path / "out")

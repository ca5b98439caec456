"""Time zones out of a wheel: all of them, or an error that names it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from rlm_wasm.errors import GuestBuildError
from rlm_wasm.guestbuild.zones import zone_modules

ABOUT = "__version__ = '1'\n"


def wheel(folder: Path, zones: dict[str, bytes], listed: str) -> Path:
    path = folder / "tzdata-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tzdata/__init__.py", ABOUT)
        archive.writestr("tzdata/zones", listed)
        for name, data in zones.items():
            archive.writestr(f"tzdata/zoneinfo/{name}", data)
    return path


def test_every_listed_zone_is_in_the_module(tmp_path: Path) -> None:
    zones = {"UTC": b"TZif2\0utc", "Europe/Paris": b"TZif2\0\xffparis"}
    modules = zone_modules(wheel(tmp_path, zones, "UTC\nEurope/Paris\n"))
    values: dict[str, dict[str, bytes]] = {}
    exec(modules["rlm_zonedata.py"], values)
    assert values["ZONES"] == zones
    assert modules["tzdata/__init__.py"] == ABOUT.encode()


@pytest.mark.parametrize(
    ("zones", "listed", "problem"),
    [
        ({"UTC": b"TZif2"}, "UTC\nMars/North\n", "Mars/North"),
        ({"UTC": b"no zone"}, "UTC\n", "not every zone is one"),
        ({}, "", "not every zone is one"),
        ({"UTC": b"TZif2", "big": bytes(5 << 20)}, "UTC\n", "more than time zones"),
    ],
)
def test_a_wheel_that_is_not_one_of_zones_is_refused(
    tmp_path: Path, zones: dict[str, bytes], listed: str, problem: str
) -> None:
    with pytest.raises(GuestBuildError, match=problem):
        zone_modules(wheel(tmp_path, zones, listed))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"no archive")
    with pytest.raises(GuestBuildError, match=r"x\.whl is damaged"):
        zone_modules(tmp_path / "x.whl")

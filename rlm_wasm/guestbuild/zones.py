"""Time zones as a module: what `zoneinfo` reads, out of the wheel of the pinned release."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError

ZONES_MODULE: Final = "rlm_zonedata.py"
_FOLDER: Final = "tzdata/zoneinfo/"
_LIST: Final = "tzdata/zones"
_ABOUT: Final = "tzdata/__init__.py"
_MAGIC: Final = b"TZif"
# Far more than all zones of the world; a wheel that holds more is not the one we know.
_BYTES_MAX: Final = 4 << 20


def zone_modules(wheel: Path) -> dict[str, bytes]:
    """Return the modules to freeze: the zones by name, and the package `tzdata` with its version.

    Raises:
        GuestBuildError: the wheel is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            if sum(info.file_size for info in infos.values()) > _BYTES_MAX:
                raise GuestBuildError(f"{wheel.name} holds more than time zones")
            names = archive.read(_LIST).decode("ascii").split()
            zones = {name: archive.read(_FOLDER + name) for name in sorted(names)}
            about = archive.read(_ABOUT)
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise GuestBuildError(f"{wheel.name} is damaged: {error}") from error
    if not zones or not all(data.startswith(_MAGIC) for data in zones.values()):
        raise GuestBuildError(f"{wheel.name} is damaged: not every zone is one")
    lines = [f"    {name!r}: {data!r},\n" for name, data in zones.items()]
    text = "".join(["ZONES = {\n", *lines, "}\n"])
    return {ZONES_MODULE: text.encode("ascii"), "tzdata/__init__.py": about}

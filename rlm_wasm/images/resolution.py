"""From the packages that somebody asks for to exact files: pip finds the wheels, of pure Python only.

None of their code runs: pip is told to take wheels alone, and where one of them points at a source archive
all the same, it can start no build. What has no pure wheel and a recipe of ours is offered to it as one
(`offered`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError, UsageError
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.pip import PipFailed, PipMissing, pip_download
from rlm_wasm.images.lock import PACKAGES_MAX, LockedPackage
from rlm_wasm.images.wheel import canonical, read_wheel

_SECONDS_MAX: Final = 600
# A name with what may stand behind it: extras and versions. No path, no address, no option.
_WANTED: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(\[[A-Za-z0-9,._-]{1,128}\])?"
    r"( *(==|>=|<=|~=|!=|<|>) *[A-Za-z0-9.*+!_-]{1,64},?){0,8}"
)
# What ends so is a file of the current folder to pip, if there is one, extras behind it or not.
_ARCHIVE: Final = re.compile(r".*\.(whl|zip|tar|tar\.\w+|tgz|tbz|txz|tlz)(\[[^]]*\])?", re.IGNORECASE)
# What the guest has itself.
PROVIDED: Final = frozenset({"tzdata"})


def checked_wanted(wanted: str) -> str:
    """Return a package as pip may be asked for it. Raises UsageError."""
    if not _WANTED.fullmatch(wanted) or _ARCHIVE.fullmatch(wanted):
        raise UsageError(
            f"{wanted!a:.200} is not a package: give its name, with a version if need be (openpyxl==3.1.5)"
        )
    return wanted


def resolve(
    wanted: Sequence[str], series: str, offers: Path, offered: Mapping[str, LockedPackage], folder: Path
) -> tuple[tuple[LockedPackage, ...], tuple[str, ...]]:
    """Download the wheels of `wanted`, and of all that they need, into `folder`; return them locked.

    `series` is the guest's Python, `offers` a folder of wheels that pip may take as well: those that
    `offered` has by their names. The second value are the packages that were left out, because the guest
    provides them.

    Raises:
        GuestBuildError: there is no such package, or no wheel of pure Python of it or of what it needs; or
            there is no pip.
    """
    arguments = [
        "--only-binary=:all:", "--implementation=py", "--abi=none", "--platform=any",
        f"--python-version={series}", f"--find-links={offers}", f"--dest={folder}", "--", *wanted,
    ]  # fmt: skip
    try:
        pip_download(arguments, seconds_max=_SECONDS_MAX)
    except PipMissing as error:
        raise GuestBuildError(
            f"the wheels of packages are found by pip, and {error}",
            hint="install it (python -m ensurepip), or make the image from a lock, with --lock",
        ) from error
    except PipFailed as error:
        raise GuestBuildError(
            f"no wheels of pure Python for {', '.join(wanted)}: {error}",
            hint="an image takes pure Python only; what needs native code has to be linked into the guest",
        ) from error
    files = sorted(path for path in folder.iterdir() if path.suffix == ".whl")
    if len(files) > PACKAGES_MAX:
        raise GuestBuildError(f"{len(files)} packages are needed; at most {PACKAGES_MAX} are allowed")
    found, left_out = [], []
    for path in files:
        if canonical(path.name.partition("-")[0]) in PROVIDED:
            left_out.append(path.name.partition("-")[0])
            continue
        found.append(offered.get(path.name) or locked_wheel(path))
    return tuple(found), tuple(left_out)


def locked_wheel(path: Path) -> LockedPackage:
    """Return the lock of a wheel that is here. Raises GuestBuildError: it is none that an image takes."""
    wheel = read_wheel(path)
    data = path.read_bytes()
    pin = PinnedFile(hashlib.sha256(data).hexdigest(), len(data), None, (), path.name)
    return LockedPackage(wheel.name, wheel.version, wheel.licence, (), pin)

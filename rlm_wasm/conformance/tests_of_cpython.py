"""CPython's own tests, out of the pinned tarball: the package `test` as a zip file, and its modules."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlm_wasm.errors import GuestBuildError

_FOLDER: Final = "Lib/test/"
# Large, and needed by nothing that runs here: other packages, windows, programs to install.
_LEFT_OUT: Final = ("wheeldata/", "test_tkinter/", "test_ctypes/", "test_ttk/", "test_idle", "test_freeze_")
# Tests that are folders; every other folder holds what they need.
_PREFIX: Final = "test_"


@dataclass(frozen=True, slots=True)
class TestFiles:
    """The package as a zip file that holds `test/…`, and the names of the modules to run, sorted."""

    package: bytes
    modules: tuple[str, ...]


def read_test_files(tarball: Path) -> TestFiles:
    """Read the tests of the release in `tarball`.

    Raises:
        GuestBuildError: it is damaged, or holds no tests.
    """
    packed, modules = io.BytesIO(), set()
    try:
        with (
            tarfile.open(tarball, "r:*") as archive,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as package,
        ):
            for member in archive:
                name = member.name.partition("/")[2]
                inner = name.removeprefix(_FOLDER)
                if not member.isreg() or inner == name or inner.startswith(_LEFT_OUT):
                    continue
                source = archive.extractfile(member)
                if source is None:
                    continue
                # A fixed time: the same tarball gives the same bytes.
                package.writestr(zipfile.ZipInfo(f"test/{inner}"), source.read(), zipfile.ZIP_DEFLATED)
                if (module := _module(inner)) is not None:
                    modules.add(module)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise GuestBuildError(f"{tarball.name} is damaged: {error}") from error
    if not modules:
        raise GuestBuildError(f"{tarball.name} holds no tests")
    return TestFiles(packed.getvalue(), tuple(sorted(modules)))


def _module(inner: str) -> str | None:
    """The name of the test module that `inner` is, or of the package that it is the head of."""
    folder, _, rest = inner.partition("/")
    if not folder.startswith(_PREFIX):
        return None
    if rest:
        return folder if rest == "__init__.py" else None
    return folder.removesuffix(".py") if folder.endswith(".py") else None


def read_names(path: Path) -> frozenset[str]:
    """Read a list of modules: names between white space, and lines that begin with #."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())

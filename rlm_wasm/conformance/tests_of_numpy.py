"""numpy's own tests, out of its pinned source distribution, with the wheels they need: one zip file."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rlm_wasm.conformance.tests_of_cpython import TestFiles
from rlm_wasm.errors import GuestBuildError

_MODULE: Final = re.compile(r"numpy/(?:\w+/)*tests/test_\w+\.py")
# Frozen in the guest: of the package itself only what its tests want to have as files.
_FROZEN: Final = re.compile(
    r"numpy/(?!.*tests/|conftest\.py|f2py/|.*\.pyi$|.*\.pxd$|py\.typed).*\.(?:py|c|h|cpp|src|build|in)"
)
_WANTED: Final = re.compile(r"numpy/.*|pytest\.ini")
_TREE_BYTES_MAX: Final = 64 << 20


def read_numpy_tests(sdist: Path, wheels: Iterable[Path]) -> TestFiles:
    """Read the tests of the release in `sdist`, and lay what they need beside them.

    Raises:
        GuestBuildError: a file is damaged, or holds no tests.
    """
    packed, modules, total = io.BytesIO(), set(), 0
    try:
        with (
            tarfile.open(sdist, "r:*") as archive,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as package,
        ):
            folders = set()
            for member in archive:
                name = member.name.partition("/")[2]
                if not member.isreg() or not _WANTED.fullmatch(name) or _FROZEN.fullmatch(name):
                    continue
                source = archive.extractfile(member)
                if source is None:
                    continue
                content = source.read()
                total += len(content)
                if total > _TREE_BYTES_MAX:
                    raise GuestBuildError(f"{sdist.name} holds more than numpy's tests")
                package.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
                folders |= {str(parent) for parent in Path(name).parents}
                if _MODULE.fullmatch(name):
                    modules.add(name.removesuffix(".py").replace("/", "."))
            # A folder of tests is found as a package's by that package's first file.
            for folder in sorted(folders - {"."}):
                marker = f"{folder}/__init__.py"
                if marker not in package.namelist():
                    package.writestr(zipfile.ZipInfo(marker), b"")
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as content_of:
                    for each in content_of.infolist():
                        package.writestr(
                            zipfile.ZipInfo(each.filename), content_of.read(each), zipfile.ZIP_DEFLATED
                        )
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise GuestBuildError(f"{sdist.name} or a wheel is damaged: {error}") from error
    if not modules:
        raise GuestBuildError(f"{sdist.name} holds no tests")
    return TestFiles(packed.getvalue(), tuple(sorted(modules)))

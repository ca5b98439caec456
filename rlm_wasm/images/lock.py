"""The lock of an image: each package with the one file that it is taken from, and what is imported.

Ours are `guest/images/NAME.toml`, written from the recipes in `guest/recipes/`. One that a user's packages
were resolved to has the same form, and can be kept to make the same image again.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.manifest import PinnedFile, read_pin
from rlm_wasm.guestbuild.toml_table import Table
from rlm_wasm.system.small_file import read_beginning

FORMAT: Final = 1
PACKAGES_MAX: Final = 200
_MODULE: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LOCK_BYTES_MAX: Final = 1 << 20
# Not a guest of its own: the one of `rlm-wasm guest build`.
BASE_GUEST: Final = "base"


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A package and its file: a wheel, or an archive of sources of which `modules` are taken."""

    name: str
    version: str
    licence: str
    modules: tuple[str, ...]
    file: PinnedFile


@dataclass(frozen=True, slots=True)
class ImageLock:
    """What an image is made of: a guest, packages, and the modules that it has imported."""

    guest: str
    preload: tuple[str, ...]
    packages: tuple[LockedPackage, ...]


def read_lock(path: Path) -> tuple[ImageLock, bytes]:
    """Return the lock in a file, and the bytes that it was read from.

    Raises:
        ArtifactError: it cannot be read, or is no lock; the message names the key.
    """
    try:
        text = read_beginning(path, _LOCK_BYTES_MAX + 1)
        if len(text) > _LOCK_BYTES_MAX:
            raise ArtifactError(f"{path} is larger than {_LOCK_BYTES_MAX} bytes")
        values = tomllib.loads(text.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as a lock: {error}") from error
    top = Table(path, "", values).only("format", "guest", "preload", "package")
    if top.integer("format") != FORMAT:
        raise top.fail("format", f"must be {FORMAT}")
    if top.text("guest") != BASE_GUEST:
        raise top.fail("guest", f"must be {BASE_GUEST!r}: there is no other guest")
    lock = ImageLock(top.text("guest"), top.strings("preload"), top.each("package", _package))
    for module in lock.preload:
        if not is_module(module):
            raise top.fail("preload", f"{module!a} is not the name of a module")
    if len(lock.packages) > PACKAGES_MAX:
        raise top.fail("package", f"at most {PACKAGES_MAX} are allowed")
    return lock, text


def is_module(name: str) -> bool:
    """Whether a name is one that code can import."""
    return _MODULE.fullmatch(name) is not None


def _package(table: Table) -> LockedPackage:
    table.only("name", "version", "licence", "modules", "file")
    modules = table.strings("modules") if table.has("modules") else ()
    package = LockedPackage(
        table.text("name"),
        table.text("version"),
        table.text("licence"),
        modules,
        read_pin(table.table("file")),
    )
    if (package.file.wheel is None) == (not modules):
        raise table.fail("modules", "are named for sources, and for nothing else")
    return package


def lock_text(lock: ImageLock) -> str:
    """Return the lock as a file."""
    lines = [f"format = {FORMAT}\n", f"guest = {_toml(lock.guest)}\n", f"preload = {_list(lock.preload)}\n"]
    for package in lock.packages:
        lines += [
            "\n[[package]]\n",
            f"name = {_toml(package.name)}\n",
            f"version = {_toml(package.version)}\n",
            f"licence = {_toml(package.licence)}\n",
        ]
        if package.modules:
            lines.append(f"modules = {_list(package.modules)}\n")
        lines.append(f"file = {_pin(package.file)}\n")
    return "".join(lines)


def _pin(pin: PinnedFile) -> str:
    entries = [
        f"{key} = {_toml(value)}" for key, value in (("wheel", pin.wheel), ("pool", pin.pool)) if value
    ]
    if pin.urls:
        entries.append(f"urls = {_list(pin.urls)}")
    return "{ " + ", ".join([*entries, f"bytes = {pin.size_bytes}", f"sha256 = {_toml(pin.sha256)}"]) + " }"


def _list(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(_toml, values)) + "]"


def _toml(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

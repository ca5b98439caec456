"""The cache that users of a machine share: made by root, while a container's image is built say, read by all.

    shared.key    what its files are authenticated with; everybody may read it
    guests/       as in a user's own cache
    compiled/     native code, for processors like the one it was made on

Its safety is who may write: the folder, everything above it and everything in it that is used belong to root
or to the process's own user, and nobody else may write there. The key is there to notice damage and what was
put there from elsewhere; it keeps nobody out. What does not fit is an error, never passed over in silence.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rlm_wasm.artifacts import guest as artifact
from rlm_wasm.artifacts.files import read_owned, write_readable
from rlm_wasm.artifacts.guest import Guest, facts_files, image_mac, load_guest
from rlm_wasm.artifacts.machine_key import KEY_BYTES, new_key
from rlm_wasm.errors import ArtifactError

# Where it is unless RLM_WASM_SHARED_CACHE names another folder, or none by being empty.
DEFAULT: Final = Path("/var/cache/rlm-wasm")
VARIABLE: Final = "RLM_WASM_SHARED_CACHE"
KEY_FILE: Final = "shared.key"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class SharedCache:
    """A shared cache whose folder and key were found to be safe."""

    folder: Path
    key: bytes

    @property
    def guests(self) -> Path:
        """The folder of its guests."""
        return self.folder / "guests"

    @property
    def compiled(self) -> Path:
        """The folder of its native code."""
        return self.folder / "compiled"

    def guest(self, name: str) -> Guest | None:
        """Return its guest of that name; None: it has none.

        Raises:
            ArtifactError: it is damaged, or somebody else may write it.
        """
        folder = self.guests / name
        if not folder.exists():
            return None
        for each in (self.guests, folder):
            check_folder(each)
        return load_guest(
            folder,
            shared_key=self.key,
            hint=f"make it again, as the user who owns it: rlm-wasm cache share {self.folder}",
        )

    def names(self) -> list[str]:
        """Return the names of its guests."""
        if not self.guests.exists():
            return []
        check_folder(self.guests)
        return sorted(path.name for path in self.guests.iterdir() if (path / artifact.FACTS_FILE).is_file())

    def check_compiled(self) -> None:
        """Raise ArtifactError where somebody else may write its folder of native code."""
        if self.compiled.exists():
            check_folder(self.compiled)


def shared_cache() -> SharedCache | None:
    """Return the shared cache of this machine; None: there is none.

    Raises:
        ArtifactError: somebody else than root and this user may write it, or it is none.
    """
    named = os.environ.get(VARIABLE)
    folder = DEFAULT if named is None else Path(named)
    if named == "" or (named is None and not os.path.lexists(DEFAULT / KEY_FILE)):
        return None
    folder = _checked(folder)
    hint = f"make it again, as the user who owns it: rlm-wasm cache share {folder}"
    try:
        key = read_owned(folder / KEY_FILE, bytes_max=KEY_BYTES, or_roots=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} is no shared cache: it has no {KEY_FILE}", hint=hint) from error
    except ArtifactError as error:
        raise ArtifactError(error.message, hint=hint) from error
    if len(key) != KEY_BYTES:
        raise ArtifactError(f"{folder / KEY_FILE} is not a key", hint=hint)
    return SharedCache(folder, key)


def prepare(folder: Path) -> SharedCache:
    """Return `folder` as a shared cache: as it is, or made now, with a key of its own.

    Where the key is damaged there is a new one, and what the old one vouched for goes.

    Raises:
        ArtifactError: it cannot be made, or somebody else may write it.
    """
    for each in (folder, folder / "guests", folder / "compiled"):
        _make(each)
    folder = _checked(folder)
    for each in (folder / "guests", folder / "compiled"):
        check_folder(each)
    path = folder / KEY_FILE
    try:
        key = read_owned(path, bytes_max=KEY_BYTES, or_roots=True)
    except (FileNotFoundError, ArtifactError):
        key = b""
    if len(key) == KEY_BYTES:
        return SharedCache(folder, key)
    cache = SharedCache(folder, new_key())
    for content in (*cache.guests.iterdir(), *cache.compiled.iterdir()):
        _remove(content)
    write_readable(path, [cache.key])
    return cache


def put_guest(cache: SharedCache, guest: Guest) -> Path:
    """Write a guest into a shared cache; return its folder. Raises ArtifactError: it cannot be written."""
    folder = cache.guests / guest.facts.recipe
    _make(folder)
    image = guest.read_image()
    files = {
        artifact.RAW_FILE: guest.read_raw(),
        artifact.CODE_FILE: guest.read_code(),
        artifact.IMAGE_FILE: image,
        artifact.NOTE_FILE: guest.read_note(),
        # Last: who reads at the same time finds no facts, or files that they fit.
        **facts_files(replace(guest.facts, image_mac=image_mac(image, cache.key)), cache.key),
    }
    for name, content in files.items():
        write_readable(folder / name, [content])
    return folder


def remove_damaged(cache: SharedCache) -> None:
    """Remove the guests that cannot be used: each is an error to whoever looks, and nothing else mends it.

    Raises:
        ArtifactError: one of them cannot be removed.
    """
    for name in cache.names():
        try:
            cache.guest(name)
        except ArtifactError:
            _remove(cache.guests / name)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise ArtifactError(f"cannot remove {path}: {error.strerror}", hint="remove it by hand") from error


def _make(folder: Path) -> None:
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o755, parents=True)
            folder.chmod(0o755)  # whatever the umask
    except OSError as error:
        raise ArtifactError(
            f"cannot make the folder {folder}: {error.strerror}",
            hint="as root, or another folder",
        ) from error


def _checked(folder: Path) -> Path:
    """Return the real path of a folder that nobody but root and this user could change or replace."""
    real = Path(os.path.realpath(folder))
    if not real.is_dir():
        raise ArtifactError(
            f"the shared cache {folder} is no folder", hint=f"make it: rlm-wasm cache share {folder}"
        )
    check_folder(real)
    for above in real.parents:
        facts = above.stat()
        # In a sticky folder nobody moves what is another's.
        if facts.st_uid not in (0, os.geteuid()) or (
            facts.st_mode & _OTHERS_WRITE and not facts.st_mode & stat.S_ISVTX
        ):
            raise _unsafe(above)
    return real


def check_folder(folder: Path) -> None:
    """Raise ArtifactError where somebody else than root and this user may write a folder."""
    facts = folder.lstat()
    owned = facts.st_uid in (0, os.geteuid())
    if not stat.S_ISDIR(facts.st_mode) or not owned or facts.st_mode & _OTHERS_WRITE:
        raise _unsafe(folder)


def _unsafe(folder: Path) -> ArtifactError:
    return ArtifactError(
        f"the shared cache cannot be trusted: another user than root may write {folder}",
        hint=f"chown root {folder} && chmod go-w {folder}, or set {VARIABLE} to nothing to do without",
    )

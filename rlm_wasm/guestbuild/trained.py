"""The leavings of a training, kept as text among the sources: a build with them compiles CPython once.

The training gives the same each time, so the key of its stage says which training a text is of. A recipe
with another key takes nothing and trains; `rlm-wasm guest train` writes the texts anew.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.counts_text import pack_counts, unpack_counts
from rlm_wasm.guestbuild.storage import storing
from rlm_wasm.guestbuild.toml_table import Table

# Below the guest's sources.
TRAINED_FOLDER: Final = "trained"
_ABOUT_FILE, _COUNTS_FILE, _CONFIG_FILE = "trained.toml", "counts.txt", "config.txt"
_FILES: Final = (_COUNTS_FILE, _CONFIG_FILE, _ABOUT_FILE)
_ABOUT: Final = """\
# What training CPython left: counts.txt is what was counted, config.txt what configure found out about the
# target. Written by `rlm-wasm guest train`, never by hand. A build takes them where its own training would
# have this key, and checks that the compiler makes the profile of this hash of them.
key = "{key}"
profile_sha256 = "{profile}"
config_sha256 = "{config}"
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """The texts in `folder`, by the key of the stage that made them. They are read when asked for."""

    folder: Path
    key: str
    profile_sha256: str
    config_sha256: str

    @property
    def counts(self) -> str:
        """What was counted, as the compiler reads it. Its hash shows in the profile that is made of it."""
        return unpack_counts(_read(self.folder / _COUNTS_FILE))

    @property
    def config(self) -> str:
        """What configure found out. Raises ArtifactError if that was changed."""
        text = _read(self.folder / _CONFIG_FILE)
        if _hash(text.encode("utf-8")) != self.config_sha256:
            raise changed(self.folder / _CONFIG_FILE)
        return text

    def check_profile(self, profile: Path) -> None:
        """Raise ArtifactError unless `profile`, made of the counts, is what the training made."""
        if _hash(profile.read_bytes()) != self.profile_sha256:
            raise changed(self.folder / _COUNTS_FILE)


def changed(path: Path) -> ArtifactError:
    """The error for a text that is not what a training left."""
    return ArtifactError(f"{path} is not what a training left", hint="write it anew: rlm-wasm guest train")


def load_trained(sources: Path) -> Trained | None:
    """Return what is kept in the guest's sources, or None where nothing is.

    Raises:
        ArtifactError: it is kept in no form that is known.
    """
    folder = sources / TRAINED_FOLDER
    path = folder / _ABOUT_FILE
    if not path.exists():
        return None
    try:
        values = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise ArtifactError(f"{path}: {error}") from error
    table = Table(path, "", values).only("key", "profile_sha256", "config_sha256")
    return Trained(folder, table.text("key"), table.text("profile_sha256"), table.text("config_sha256"))


def trained_files(key: str, profile: bytes, counts: str, config: str) -> dict[str, str]:
    """Return the files that keep what the training of `key` left: `profile`, and the compiler's text of it.

    Raises:
        ArtifactError: the text is in no form that is known.
    """
    packed = pack_counts(counts)
    hashes = {"profile": _hash(profile), "config": _hash(config.encode("utf-8"))}
    return {_COUNTS_FILE: packed, _CONFIG_FILE: config, _ABOUT_FILE: _ABOUT.format(key=key, **hashes)}


def kept_files(sources: Path) -> dict[str, str]:
    """Return the files that keep a training in the guest's sources, by name; those that are there."""
    paths = [sources / TRAINED_FOLDER / name for name in _FILES]
    return {path.name: _read(path) for path in paths if path.exists()}


def keep_files(sources: Path, files: Mapping[str, str]) -> None:
    """Write `files` into the guest's sources.

    Raises:
        GuestBuildError: they cannot be written.
    """
    folder = sources / TRAINED_FOLDER
    with storing("what the training left", folder):
        folder.mkdir(exist_ok=True)
        # The one with the key last: where it is, the others are whole.
        (folder / _ABOUT_FILE).unlink(missing_ok=True)
        for name in _FILES:
            (folder / name).write_text(files[name], encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""The cache of build stages: each is made once in a temporary folder and published by one rename.

A stage's folder is `<name>-<key>`, where the key is the hash of everything that went in. Its
receipt lists what came out, so that a damaged stage is noticed, thrown away and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlm_wasm.artifacts.held_lock import held_lock
from rlm_wasm.guestbuild.manifest import PinnedFile
from rlm_wasm.guestbuild.progress import BuildProgress
from rlm_wasm.guestbuild.side_by_side import side_by_side
from rlm_wasm.guestbuild.sources import hash_file
from rlm_wasm.guestbuild.storage import storing

RECEIPT_FILE: Final = "receipt.json"
_TEMPORARY: Final = ".making-"
# Older results of a stage that are kept, so that going back and forth between versions is quick.
_KEEP_PER_STAGE: Final = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the build. `make` fills the folder it is given, from the published `needs`."""

    name: str
    text: str
    key: str
    seconds: int
    needs: tuple[Stage, ...]
    # Pinned files it unpacks; of each group any one will do.
    files: tuple[tuple[PinnedFile, ...], ...]
    make: Callable[[Path, Mapping[str, Path]], None]
    # Raises GuestBuildError where this machine lacks what `make` needs; called before any download.
    check: Callable[[], object] | None = None
    # Whether it is made in a second thread, while others are made.
    beside: bool = False

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.key}"


def stage_key(name: str, inputs: Any) -> str:
    """Return the key of a stage: a hash of its name and everything (JSON-able) that decides its output."""
    text = json.dumps([name, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class StageCache:
    """The folder of published stages. Use it inside `locked()`."""

    def __init__(self, folder: Path, progress: BuildProgress) -> None:
        self._folder = folder
        self._progress = progress
        self._checked: dict[str, Path] = {}

    @contextmanager
    def locked(self, seconds_max: float | None = None) -> Iterator[None]:
        """Hold the cache alone, and the downloads; wait (and say so) while another holds it.

        Raises:
            ArtifactError: another held it for all of `seconds_max`.
        """
        with storing("the build cache", self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        def waiting() -> None:
            self._progress.note("another build is running on this cache; waiting for it")

        with held_lock(self._folder / "lock", seconds_max=seconds_max, waiting=waiting):
            # Whoever made these is gone: the lock is ours.
            for stale in self._folder.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(stale, ignore_errors=True)
            yield

    def has(self, stage: Stage) -> bool:
        """Whether `stage` is published and undamaged."""
        return self._published(stage) is not None

    def missing(self, stage: Stage) -> list[Stage]:
        """Return the stages that `ensure` would make, in that order."""
        found: dict[str, Stage] = {}

        def visit(each: Stage) -> None:
            if each.folder not in found and not self.has(each):
                for need in each.needs:
                    visit(need)
                found[each.folder] = each

        visit(stage)
        return list(found.values())

    def ensure(self, stage: Stage, stop: Callable[[], None] = lambda: None) -> Path:
        """Return the published folder of `stage`, making it and whatever it needs.

        If making it is interrupted nothing of it is published; stages already made stay. `stop` ends from
        another thread what a stage is at: of two that are made at once, the other one fails too.
        """
        published = self._published(stage)
        if published is not None:
            return published
        missing = self.missing(stage)
        needs = {each.folder: [need.folder for need in each.needs] for each in missing}
        by_folder = {each.folder: each for each in missing}
        side_by_side(
            [each.folder for each in missing if not each.beside],
            [each.folder for each in missing if each.beside],
            needs,
            lambda folder: self._make(by_folder[folder]),
            stop,
        )
        published = self._published(stage)
        assert published is not None
        return published

    def _make(self, stage: Stage) -> None:
        needs = {need.name: self._folder / need.folder for need in stage.needs}
        self._progress.begin(stage.name, stage.text)
        temporary = self._folder / f"{_TEMPORARY}{stage.name}-{secrets.token_hex(6)}"
        with storing(f"the stage {stage.name}", self._folder):
            temporary.mkdir(mode=0o700)
            try:
                stage.make(temporary, needs)
                _write_receipt(temporary, stage)
                final = self._folder / stage.folder
                os.replace(temporary, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self._checked[stage.folder] = final
        self._progress.end(stage.name)
        self._prune(stage)

    def discard(self, stage: Stage) -> None:
        """Forget what was published for `stage`, so that it is made again."""
        self._checked.pop(stage.folder, None)
        with storing(f"the stage {stage.name}", self._folder):
            if (self._folder / stage.folder).exists():
                shutil.rmtree(self._folder / stage.folder)

    def _published(self, stage: Stage) -> Path | None:
        if stage.folder in self._checked:
            return self._checked[stage.folder]
        folder = self._folder / stage.folder
        if not folder.is_dir():
            return None
        problem = _damage(folder, stage)
        if problem is not None:
            self._progress.note(f"the cached stage {stage.name} is damaged ({problem}): making it again")
            shutil.rmtree(folder)
            return None
        os.utime(folder)
        self._checked[stage.folder] = folder
        return folder

    def _prune(self, stage: Stage) -> None:
        found = [p for p in self._folder.glob(f"{stage.name}-*") if p.name not in self._checked]
        found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for old in found[_KEEP_PER_STAGE:]:
            shutil.rmtree(old, ignore_errors=True)


def _contents(folder: Path) -> dict[str, str]:
    """Return what lies in `folder`: a hash for each file, the target for each link, by relative path."""
    found: dict[str, str] = {}
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[relative] = f"-> {path.readlink()}"
            elif path.is_file() and relative != RECEIPT_FILE:
                found[relative] = hash_file(path)
    return found


def _write_receipt(folder: Path, stage: Stage) -> None:
    text = json.dumps({"stage": stage.name, "key": stage.key, "files": _contents(folder)}, sort_keys=True)
    (folder / RECEIPT_FILE).write_text(text, encoding="utf-8")


def _damage(folder: Path, stage: Stage) -> str | None:
    try:
        receipt = json.loads((folder / RECEIPT_FILE).read_text(encoding="utf-8"))
        listed = receipt["files"]
        if receipt["stage"] != stage.name or receipt["key"] != stage.key:
            return "its receipt is another stage's"
        found = _contents(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no readable receipt: {error}"
    for name in sorted({*listed, *found}):
        if listed.get(name) != found.get(name):
            return f"{name} is {'missing' if name not in found else 'not what was made'}"
    return None

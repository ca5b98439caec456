"""The folder, log and environment in which each build stage runs its commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlm_wasm.errors import InternalError
from rlm_wasm.guestbuild.archive import unpack_deb
from rlm_wasm.guestbuild.build_host import clean_env, find_make
from rlm_wasm.guestbuild.command import BuildCommands
from rlm_wasm.guestbuild.progress import BuildProgress, Steps, count_steps
from rlm_wasm.guestbuild.recipe import Recipe
from rlm_wasm.guestbuild.sources import SourceStore
from rlm_wasm.guestbuild.storage import storing

Needs = Mapping[str, Path]
# Runs a linked module's training and returns its raw profile, the same for the same module.
Train = Callable[[Path], bytes]
_WHOLE: Final = (0.0, 1.0)


def plans_only(raw: Path) -> bytes:
    """A `Train` for a build in which nothing is made."""
    raise InternalError("a build that only plans was asked to train")


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Everything a stage is made with, beside its inputs. None of it may change what comes out."""

    store: SourceStore
    logs: Path
    jobs: int
    progress: BuildProgress
    train: Train = plans_only
    commands: BuildCommands = field(default_factory=BuildCommands)
    # Whose progress it is.
    stage: str = ""

    def open_log(self, stage: str) -> Path:
        """Return an empty log for `stage`; the last build's is overwritten."""
        with storing("the build's log", self.logs):
            self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = self.logs / f"{stage}.log"
            log.write_bytes(b"")
        return log

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
        part: tuple[float, float] = _WHOLE,
        steps: Steps | None = None,
    ) -> None:
        """Run a command that is `part` of its stage and moves on in `steps`.

        Raises:
            GuestBuildError: the command failed.
        """
        on_line = count_steps(self._advance, steps, *part)
        self.commands.run(argv, what=what, cwd=cwd, env=env, log=log, on_line=on_line)
        self._advance(part[1])

    def _advance(self, fraction: float) -> None:
        self.progress.advance(self.stage, fraction)

    def make_command(self, recipe: Recipe, work: Path) -> list[str]:
        """Return `make -jN`; where the machine has no make, the pinned package's, unpacked below `work`."""
        return [find_make() or self.pinned_tool(recipe, "make", work), f"-j{self.jobs}"]

    def pinned_tool(self, recipe: Recipe, name: str, work: Path) -> str:
        """Return the path of a program of the manifest's, unpacked below `work`."""
        tool = next(tool for tool in recipe.manifest.host_tools if tool.name == name)
        folder = work / "host-tools"
        unpack_deb(self.store.fetch(tool.file), folder, lambda each: each if each == tool.path else None)
        return str(folder / tool.path)


def wasm_env(recipe: Recipe, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every compile for wasm."""
    epoch = str(recipe.manifest.compile.source_date_epoch)
    return clean_env({"SOURCE_DATE_EPOCH": epoch, **(extra or {})})


def prefix_maps(work: Path, needs: Needs) -> list[str]:
    """Compiler flags by which no path of this machine reaches the output."""
    named = {"work": work, **needs}
    return [f"-ffile-prefix-map={path}={name}" for name, path in sorted(named.items())]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` below `folder`."""
    for name, content in sorted(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

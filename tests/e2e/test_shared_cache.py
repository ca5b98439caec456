"""Root prepares a machine, another user runs there: as in a container, and really with another's rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_wasm.artifacts.compile_cache import native_code
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.host.compilation import compile_apart
from tests.support.command_line import ROOT, SECONDS_MAX, document, rlm_wasm
from tests.support.machine_grade import POLICY_HERE

pytestmark = [
    pytest.mark.guest,
    pytest.mark.threat("T-331"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]
NOBODY = 65_534


@dataclass(frozen=True)
class Container:
    """A folder that everybody may read, with a shared cache and an interpreter that any user may run."""

    folder: Path
    python: Path

    def run(self, *arguments: str | Path, user: int = NOBODY) -> subprocess.CompletedProcess[bytes]:
        """Run the command as a user who has no home and no right to write anywhere here."""
        return subprocess.run(
            [self.python, "-m", "rlm_wasm", *map(str, arguments)],
            user=user, group=user, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL,
            env={"HOME": "/nonexistent", "RLM_WASM_SHARED_CACHE": str(self.folder / "shared")},
            capture_output=True, timeout=SECONDS_MAX,
        )  # fmt: skip


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    # Not pytest's own folder, into which nobody else may look.
    with tempfile.TemporaryDirectory(prefix="rlm-wasm-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        container = Container(folder, _interpreter(folder))
        native_code(find_guest().read_code(), compile_apart)  # a busy machine takes minutes for it
        shared = rlm_wasm("cache", "share", folder / "shared", "--json", RLM_WASM_SHARED_CACHE="")
        assert shared.returncode == 0, shared.stderr
        guest = find_guest().facts.recipe
        assert document(shared)["made"][0] == str(folder / "shared" / "guests" / guest)
        (folder / "cell.py").write_text("6 * 7")
        (folder / "cell.py").chmod(0o644)
        yield container


def _interpreter(folder: Path) -> Path:
    """Return an interpreter with this package that nobody may run; skip the tests where there is none."""
    named = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, shutil.which(named, path="/usr/local/bin:/usr/bin")):
        if candidate is None:
            continue
        place = Path(tempfile.mkdtemp(prefix="python-", dir=folder))
        place.chmod(0o755)
        try:
            made = subprocess.run(
                [candidate, "-m", "venv", "--without-pip", place], capture_output=True, timeout=SECONDS_MAX
            )
            packages = next((place / "lib").glob("*/site-packages"))
            (packages / "here.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
            python = place / "bin" / "python"
            tried = subprocess.run(
                [python, "-c", "import rlm_wasm.cli.main, wasmtime"],
                user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={}, capture_output=True,
                timeout=SECONDS_MAX,
            )  # fmt: skip
        except (OSError, StopIteration):
            continue
        if made.returncode == tried.returncode == 0:
            return python
    pytest.skip("no interpreter with this package is where another user may run it")


def test_another_user_runs_what_root_shared_without_a_home_or_a_place_to_write(container: Container) -> None:
    for policy in ("standard", POLICY_HERE):
        ended = container.run("exec", "--json", "--policy", policy, container.folder / "cell.py")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["result"] == "42"
        assert ended.stderr == b""  # nothing was unpacked or compiled


def test_whoever_may_write_there_has_it_refused(container: Container) -> None:
    shared = container.folder / "shared"
    compiled = next((shared / "compiled").iterdir())
    for place in (shared, shared / "guests", shared / "compiled", compiled, shared / "shared.key"):
        facts = place.stat()
        os.chown(place, 12_345, 12_345)
        try:
            ended = container.run("exec", "--policy", "standard", container.folder / "cell.py")
        finally:
            os.chown(place, facts.st_uid, facts.st_gid)
        assert (ended.returncode, ended.stdout) == (2, b""), place
        assert (
            b"another user than root may write" in ended.stderr or b"of this user or of root" in ended.stderr
        )


def test_what_is_damaged_is_mended_by_the_command_that_its_error_names(container: Container) -> None:
    shared = container.folder / "shared"
    for place in ("shared.key", "guests/*/guest.json", "compiled/*"):
        (damaged,) = shared.glob(place)
        with damaged.open("ab") as stream:
            stream.write(b"x")
        refused = container.run("exec", "--policy", "standard", container.folder / "cell.py")
        assert refused.returncode == 2, place
        assert f"rlm-wasm cache share {shared}".encode() in refused.stderr, (place, refused.stderr)
        made = rlm_wasm("cache", "share", shared, RLM_WASM_SHARED_CACHE=str(shared))
        assert made.returncode == 0, (place, made.stderr)
        ended = container.run("exec", "--policy", "standard", container.folder / "cell.py")
        assert (ended.returncode, ended.stdout) == (0, b"42\n"), (place, ended.stderr)


def test_without_it_a_user_with_no_place_to_write_is_told_what_to_set(container: Container) -> None:
    empty = Container(container.folder / "none", container.python)
    ended = empty.run("exec", "--policy", "standard", container.folder / "cell.py")
    assert ended.returncode == 2
    assert b"rlm-wasm cache share" in ended.stderr

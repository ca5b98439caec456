"""A guest is never compiled with a profile that says nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.errors import ArtifactError, GuestBuildError
from rlm_wasm.guestbuild.build_host import write_script
from rlm_wasm.guestbuild.compilation import portable_config_cache
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.recipe import recipes
from rlm_wasm.guestbuild.training_stage import check_profile
from tests.unit.guestbuild.support import guest_folder

SHOWN = "Instrumentation level: IR\nFunctions shown: 1\nTotal functions: 3\nMaximum function count: 7\n"


def check(tmp_path: Path, shown: str, status: int = 0) -> None:
    tool = tmp_path / "profdata"
    (tmp_path / "shown").write_text(shown)
    write_script(tool, f'cat "$here/shown"; exit {status}')
    check_profile(str(tool), tmp_path / "guest.profdata")


def test_a_profile_that_counted_the_interpreters_loop_is_taken(tmp_path: Path) -> None:
    check(tmp_path, SHOWN)


@pytest.mark.parametrize(
    "shown", [SHOWN.replace("count: 7", "count: 0"), SHOWN.replace("shown: 1", "shown: 0"), ""]
)
def test_a_profile_without_it_is_refused(tmp_path: Path, shown: str) -> None:
    with pytest.raises(GuestBuildError, match="the training counted nothing"):
        check(tmp_path, shown)


def test_a_profile_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestBuildError, match="the training counted nothing"):
        check(tmp_path, SHOWN, status=1)


def test_a_training_that_needs_a_file_the_shim_lacks_is_refused(tmp_path: Path) -> None:
    folder = guest_folder(tmp_path, {'shim = ["start.c"]': 'shim = ["gone.c"]'})
    with pytest.raises(ArtifactError, match=r"the shim lacks: gone\.c"):
        _ = next(recipes(load_manifest(folder), "3.14")).training_shim


def test_every_training_program_runs_to_its_end_without_clock_file_or_host() -> None:
    """Here under this interpreter, once each; the build runs them in the guest and stops at an error."""
    program = (
        "import builtins, sys, time, random\n"
        "import rlm_training\n"
        "def refused(*_): raise AssertionError('a training program must be the same each time')\n"
        "builtins.open = time.time = time.perf_counter = time.monotonic = refused\n"
        "random.seed = random.random = random.randrange = random.choice = refused\n"
        "for run, times in rlm_training.PROGRAMS:\n"
        "    assert times > 0\n"
        "    run()\n"
        "print(len(rlm_training.PROGRAMS))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", f"import sys; sys.path.insert(0, sys.argv[1])\n{program}",
         str(guest_dir() / "training")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


def test_what_configure_found_out_is_kept_without_what_it_saw_of_the_machine() -> None:
    kept = "ac_cv_func_fork=${ac_cv_func_fork=no}\nac_cv_sizeof_long=${ac_cv_sizeof_long=4}\n"
    machine = "ac_cv_env_CC_value=/here/cc\nac_cv_path_GREP=/usr/bin/grep\nac_cv_prog_AR=/here/ar\n"
    assert portable_config_cache(f"# comment\n{kept}{machine}pkg_cv_ZLIB_LIBS=-L/here\n") == kept

"""numpy in a locked worker, and some of its own tests."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import PIPE

import pytest

from rlm_wasm.artifacts.guest import Guest
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.errors import ArtifactError
from rlm_wasm.guestbuild.manifest import load_manifest
from rlm_wasm.guestbuild.verify import verify_guest
from tests.support.command_line import document, rlm_wasm, start
from tests.support.machine_grade import POLICY_HERE

pytestmark = [pytest.mark.guest, pytest.mark.slow]

MODULES = (
    "numpy._core.tests.test_errstate",
    "numpy.linalg.tests.test_deprecations",
    "numpy.fft.tests.test_helper",
)


@pytest.fixture(scope="module")
def numpy_guest() -> Guest:
    try:
        return find_guest("numpy")
    except ArtifactError as absent:
        pytest.skip(f"{absent.message}; {absent.hint}")


def test_it_computes_in_a_locked_worker(numpy_guest: Guest, tmp_path: Path) -> None:
    program = tmp_path / "cell.py"
    program.write_text("import numpy; numpy.arange(10).sum().item()")
    ended = rlm_wasm("exec", "--policy", POLICY_HERE, "--image", "numpy", program, "--json")
    assert ended.returncode == 0, ended.stderr.decode()
    assert document(ended)["result"] == "45"


@pytest.mark.threat("T-260")
def test_its_boundary_is_that_of_the_guest_without_it(numpy_guest: Guest) -> None:
    plain = find_guest().facts
    assert numpy_guest.facts.imports == plain.imports
    assert numpy_guest.facts.exports == plain.exports
    verify_guest(numpy_guest, load_manifest().boundary)


def test_some_of_its_own_tests_come_to_what_is_expected_of_them(numpy_guest: Guest) -> None:
    # Laying the tests out takes some ten seconds of processor time; a busy machine has its time for that.
    run = start("guest", "conformance", "--numpy", *MODULES, "--json", stdout=PIPE, stderr=PIPE)
    said, problem = run.communicate(timeout=900)
    assert run.returncode == 0, said.decode() + problem.decode()
    told = json.loads(said)
    assert told["modules"] == len(MODULES)
    assert told["share"] >= 0.98

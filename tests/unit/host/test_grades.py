"""A machine that lacks some layers gives a worker the others, says which, and never fewer than required."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys

import pytest

from rlm_wasm.host import machine_grade as machine
from rlm_wasm.lockdown import LAYERS, LAYERS_OF, WORKER_LAYERS, Grade
from tests.support.locked_facts import SECONDS_MAX, exchange, zygote
from tests.support.machine_grade import HERE, LAYERS_HERE, needs

pytestmark = [pytest.mark.guest]

# Those that can be brought about here: root alone makes the other namespaces without one of users.
LOWER = [
    pytest.param(Grade.FILTERED, marks=needs(Grade.FILTERED)),
    pytest.param(
        Grade.NAMESPACED,
        marks=[
            needs(Grade.NAMESPACED),
            pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces"),
        ],
    ),
]


def on_a_machine(grade: Grade, *command: str) -> subprocess.Popen[str]:
    """Start a module of ours on a machine of this grade."""
    words = [sys.executable, "-m", "tests.support.refused_namespaces", grade.value, sys.executable, "-m"]
    return subprocess.Popen([*words, *command], stdout=subprocess.PIPE, text=True)


@pytest.mark.threat("T-101")
@pytest.mark.parametrize("grade", LOWER)
def test_where_namespaces_are_refused_a_worker_has_every_other_layer_and_strict_does_not_start(
    grade: Grade,
) -> None:
    with on_a_machine(grade, "tests.support.graded_host") as host:
        said = json.loads(host.communicate(timeout=SECONDS_MAX)[0])
    assert "user namespace: Operation not permitted" in said["strict"]
    assert said["here"] == said["grade"] == grade.value
    wanted = [[layer, layer in LAYERS_OF[grade]] for layer in LAYERS]
    assert said["layers"] == said["told"] == wanted
    assert said["result"] == "42"
    status = said["status"]
    assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
        assert status["Groups"].strip() == ""


@needs(Grade.FILTERED)
def test_a_machine_is_looked_at_without_a_guest_and_says_what_a_worker_gets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("RLM_WASM_CACHE", f"{tmp_path}/none")
    found = machine.layers_here()
    assert [f.layer for f in found] == list(LAYERS)
    assert {f.layer for f in found if f.applied} >= set(LAYERS_HERE)
    assert machine.grade_here() is HERE


@pytest.mark.threat("T-101")
@needs(Grade.FILTERED)
def test_a_zygote_knows_what_its_workers_get_before_there_is_one_and_holds_them_to_it() -> None:
    with zygote("no_landlock_worker", ()) as made:
        assert made.grade is Grade.PARTIAL
        told = {f.layer: f.applied for f in made.layers}
        assert list(told) == list(LAYERS)
        assert [layer for layer in WORKER_LAYERS if not told[layer]] == ["landlock"]
    with zygote("late_landlock_worker", ()) as made:
        # It had the layer when it was looked at; a worker that does not get it is none.
        assert {f.layer: f.applied for f in made.layers}["landlock"]
        answer, ended = exchange(made, {})
        assert answer == b""
        assert "landlock: Landlock is turned off" in ended.reason


@pytest.mark.threat("T-102")
@pytest.mark.parametrize("grade", LOWER)
@pytest.mark.parametrize("which", ["host", "outside", "zygote"])
def test_without_a_pid_namespace_too_nothing_outlives_host_or_zygote(grade: Grade, which: str) -> None:
    with on_a_machine(grade, "tests.support.doomed_host") as host:
        assert host.stdout is not None
        outside, worker = (int(word) for word in host.stdout.readline().split())
        zygote_pid = _parent(worker)
        pids = {"host": host.pid, "outside": outside, "zygote": zygote_pid, "worker": worker}
        watched = {name: os.pidfd_open(pid) for name, pid in pids.items()}
        os.kill(pids[which], signal.SIGKILL)
        # The host of these tests waits to be killed; what it started may not wait for that.
        for name in ("outside", "zygote", "worker"):
            assert select.select([watched[name]], [], [], SECONDS_MAX)[0], name
        host.kill()
        for pidfd in watched.values():
            os.close(pidfd)


@pytest.mark.threat("T-102")
@needs(Grade.FILTERED)
def test_a_worker_whose_zygote_dies_before_it_is_locked_down_ends() -> None:
    """Between the fork and the moment at which it asks for its parent's death, nothing would tell it."""
    with on_a_machine(Grade.FILTERED, "tests.support.orphaned_worker") as host:
        assert host.communicate(timeout=SECONDS_MAX)[0] == "gone\n"


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])

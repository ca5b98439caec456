"""A zygote forks workers that are locked down before they serve, and nothing of it outlives its host."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_wasm.artifacts.compile_cache import cache_path
from rlm_wasm.artifacts.installed import find_guest
from rlm_wasm.artifacts.machine_key import machine_key
from rlm_wasm.artifacts.paths import state_dir
from rlm_wasm.errors import InternalError
from rlm_wasm.host import zygote as zygote_module
from rlm_wasm.host.zygote import Zygote
from rlm_wasm.jail.lockdown.closures import writable_code
from rlm_wasm.jail.zygote import EXIT_FAILED, EXIT_NOT_LOCKED
from rlm_wasm.lockdown import LAYERS, WORKER_LAYERS, ZYGOTE_LAYERS, Grade
from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.protocol.zygote_reports import Exited, Gone, Spawned, Unheld, ZygoteGone
from tests.support.descriptors import descriptors_left
from tests.support.locked_churn import hostile_cells
from tests.support.locked_facts import SECONDS_MAX, exchange, exit_of, process_limits, spawn_and_wait, zygote
from tests.support.machine_grade import LAYERS_HERE, needs
from tests.support.sandbox_facts import MIB

pytestmark = [pytest.mark.guest]

ROOT = Path(__file__).parents[3]
NAMESPACES = {
    "user": "user namespace",
    "pid": "pid namespace",
    "net": "net namespace",
    "mnt": "mount namespace",
    "ipc": "ipc namespace",
    "uts": "uts namespace",
    "cgroup": "cgroup namespace",
}
PLAIN_PYTHON = "/usr/bin/python3"
PLAIN_USER = 61_234
SECRET = "rlm-secret-" + "7f3a" * 8
SEED = 20261122


@pytest.fixture(scope="module")
def warm() -> Iterator[Zygote]:
    """One zygote for the tests that only use it. The host has a key in its environment and its memory."""
    os.environ["RLM_TEST_API_KEY"] = SECRET
    try:
        with zygote("worker_entry") as made:
            yield made
    finally:
        del os.environ["RLM_TEST_API_KEY"]


class Served:
    """One worker with its socket."""

    def __init__(self, made: Zygote) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(SECONDS_MAX)
        with theirs:
            self.spawned = spawn_and_wait(made, theirs, SECONDS_MAX)
        self.layers = {name: (applied, detail) for name, applied, detail in json.loads(self._line())}

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            part = self.ours.recv(65_536)
            assert part, "the worker is gone"
            line += part
        return line

    def cell(self, source: str) -> dict[str, object]:
        self.ours.sendall(json.dumps(source).encode() + b"\n")
        answer: dict[str, object] = json.loads(self._line())
        return answer

    def gone(self) -> bool:
        """Whether the process ends within a second."""
        return bool(select.select([self.spawned.pidfd], [], [], 1.0)[0])

    def close(self) -> None:
        self.ours.close()
        os.close(self.spawned.pidfd)


@pytest.fixture
def worker(warm: Zygote) -> Iterator[Served]:
    served = Served(warm)
    yield served
    served.ours.close()
    exit_of(warm, served.spawned.number)
    os.close(served.spawned.pidfd)


@pytest.mark.parametrize("left", [0, 1])
def test_a_worker_that_its_host_cannot_hold_is_told_and_ends_and_its_zygote_goes_on(
    warm: Zygote, left: int
) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            number = warm.spawn(theirs)
        assert select.select([warm], [], [], SECONDS_MAX)[0]
        # None for its pidfd; or none to read whose it is.
        with descriptors_left(left):
            assert warm.reports() == [Unheld(number)]
    assert exit_of(warm, number).killed_by == 0
    another = Served(warm)
    assert another.cell("6 * 7")["result"] == "42"
    another.close()
    exit_of(warm, another.spawned.number)


@pytest.mark.threat("T-053")
@pytest.mark.parametrize(
    "said", [{}, {"layers": None}, {"layers": 7}, {"layers": [1]}, {"layers": [["seccomp", "yes", ""]]}]
)
def test_a_zygote_that_is_ready_without_its_layers_did_not_start(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, object]
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, subprocess.Popen([sys.executable, "-c", ""]) as process:
        messages.send(theirs, {"type": "ready"} | said)
        monkeypatch.setattr(zygote_module, "launch", lambda: (process, ours))
        with pytest.raises(ZygoteGone, match="did not start"):
            Zygote.start("tests.support.worker_entry", process_limits(), required=())
    assert ours.fileno() == -1


# -- what a worker is -----------------------------------------------------------------------------------


@pytest.mark.threat("T-045")
def test_every_layer_stands_before_the_worker_serves(worker: Served) -> None:
    assert tuple(worker.layers) == LAYERS
    missing = {name for name, (applied, _) in worker.layers.items() if not applied}
    assert missing.isdisjoint(LAYERS_HERE), worker.layers
    assert worker.cell("6 * 7") == {"outcome": "completed", "result": "42", "stdout": ""}


@needs(Grade.FILTERED)
def test_the_layers_are_what_the_kernel_says_of_the_process(worker: Served) -> None:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{worker.spawned.pid}/status").read_text().splitlines()
    )
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    assert status["Threads"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert set(status["Uid"].split()) == {"65534"}
    assert set(status["Gid"].split()) == {"65534"}
    assert status["Groups"].strip() == ""
    for kind, layer in NAMESPACES.items():
        theirs = os.readlink(f"/proc/{worker.spawned.pid}/ns/{kind}")
        assert (theirs != os.readlink(f"/proc/self/ns/{kind}")) is worker.layers[layer][0], kind
    if worker.layers["empty root"][0]:
        assert os.listdir(f"/proc/{worker.spawned.pid}/root/") == []
    assert Path(f"/proc/{worker.spawned.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.threat("T-046")
def test_a_worker_holds_six_descriptors_and_no_other(worker: Served) -> None:
    folder = Path(f"/proc/{worker.spawned.pid}/fd")
    held = {int(entry.name): os.readlink(entry) for entry in folder.iterdir()}
    assert set(held) == set(range(6))
    assert {held[0], held[1], held[2]} == {"/dev/null"}
    assert held[3].startswith("socket:")
    assert held[4].startswith("/memfd:rlm-image")
    assert held[5].endswith("/pagemap")


@pytest.mark.threat("T-043")
def test_no_page_of_a_worker_is_writable_and_executable(worker: Served) -> None:
    worker.cell("1/0")
    maps = Path(f"/proc/{worker.spawned.pid}/maps").read_text().splitlines()
    assert list(writable_code(maps)) == []
    # The same look at this process, whose callbacks were made the same way.
    assert list(writable_code(["7f0000000000-7f0000001000 rwxp 00000000 00:00 0"]))


@pytest.mark.threat("T-044")
def test_no_secret_of_the_host_is_in_a_workers_memory_or_environment(warm: Zygote, worker: Served) -> None:
    key = machine_key()
    processes = {"worker": worker.spawned.pid, "zygote": _parent(worker.spawned.pid), "outside": warm.pid}
    for name, pid in processes.items():
        assert Path(f"/proc/{pid}/environ").read_bytes() == b"", name
        for secret in (SECRET.encode(), key):
            assert not _in_memory(pid, secret), name
        assert _in_memory(pid, b"rlm_wasm"), name  # the search finds what is there
    assert _in_memory(os.getpid(), SECRET.encode())


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _in_memory(pid: int, wanted: bytes) -> bool:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions = line.split()[:2]
            low, high = (int(part, 16) for part in span.split("-"))
            if "r" not in permissions or "vsyscall" in line or "vvar" in line:
                continue
            memory.seek(low)
            while low < high:
                try:
                    part = memory.read(min(high - low, 64 << 20))
                except OSError:
                    break
                if wanted in part:
                    return True
                low += len(part)
    return False


# -- sessions in one ------------------------------------------------------------------------------------


@pytest.mark.threat("T-047")
def test_everything_a_session_may_do_works_in_a_locked_worker() -> None:
    cells = sorted(hostile_cells())[::10]
    with zygote("locked_churn") as made:
        for message in ({"churn": [150, SEED]}, {"cells": cells}):
            answer, ended = exchange(made, message)
            assert ended.status == 0, (message, ended, answer)
            told = json.loads(answer)
            assert "error" not in told, told["error"]
            assert told["way"] == "scan"


# -- how one ends ---------------------------------------------------------------------------------------


@pytest.mark.threat("T-048")
def test_closing_the_zygote_ends_every_worker() -> None:
    with zygote("worker_entry") as made:
        workers = [Served(made) for _ in range(3)]
        made.close()
        assert all(each.gone() for each in workers)
        for each in workers:
            each.close()


@pytest.mark.threat("T-048")
def test_a_host_that_is_killed_takes_zygote_and_workers_with_it() -> None:
    host = subprocess.Popen(
        [sys.executable, "-m", "tests.support.doomed_host"], stdout=subprocess.PIPE, text=True
    )
    assert host.stdout is not None
    with host.stdout:
        pids = [int(word) for word in host.stdout.readline().split()]
    watched = [os.pidfd_open(pid) for pid in (*pids, _parent(pids[1]))]
    host.kill()
    host.wait(SECONDS_MAX)
    for pidfd in watched:
        assert select.select([pidfd], [], [], 1.0)[0]
        os.close(pidfd)


@pytest.mark.threat("T-048")
@pytest.mark.parametrize("which", ["the zygote", "the process outside"])
def test_a_zygote_that_is_killed_takes_its_workers_with_it_and_is_reported(which: str) -> None:
    with zygote("worker_entry") as made:
        worker = Served(made)
        os.kill(_parent(worker.spawned.pid) if which == "the zygote" else made.pid, signal.SIGKILL)
        assert worker.gone()
        reports = made.wait(SECONDS_MAX)
        while not any(isinstance(report, Gone) for report in reports):
            reports += made.wait(SECONDS_MAX)
        assert isinstance(reports[-1], Gone)
        assert made.reports() == []
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(ZygoteGone):
            made.spawn(theirs)
        worker.close()


def test_a_killed_worker_is_reported_and_its_zygote_goes_on(warm: Zygote) -> None:
    worker = Served(warm)
    signal.pidfd_send_signal(worker.spawned.pidfd, signal.SIGKILL)
    ended = exit_of(warm, worker.spawned.number)
    assert ended == Exited(worker.spawned.number, signal.SIGKILL)
    assert ended.killed_by == signal.SIGKILL
    worker.close()
    again = Served(warm)
    assert again.cell("1 + 1")["result"] == "2"
    again.close()
    exit_of(warm, again.spawned.number)


@pytest.mark.threat("T-049")
def test_a_crash_leaves_no_core_and_no_end_looks_like_another() -> None:
    with zygote("ending_worker", cpu_seconds_max=1) as made:
        _, aborted = exchange(made, {"end": "abort"})
        assert aborted.killed_by in (signal.SIGSEGV, signal.SIGABRT)
        assert not os.WCOREDUMP(aborted.status)
        _, raised = exchange(made, {"end": "raise"})
        assert raised.exit_code == EXIT_FAILED
        _, finished = exchange(made, {"end": ""})
        assert finished.status == 0
        # A worker that never comes back is ended by the kernel once it has used its processor time.
        _, spun = exchange(made, {"end": "spin"})
        assert spun.killed_by in (signal.SIGKILL, signal.SIGXCPU)


# -- what is missing ------------------------------------------------------------------------------------


@pytest.mark.threat("T-045")
def test_a_required_layer_that_is_missing_ends_the_worker_and_is_named() -> None:
    with zygote("no_landlock_worker") as made:
        answer, ended = exchange(made, {})
    assert answer == b""
    assert ended.exit_code == EXIT_NOT_LOCKED
    assert "landlock: Landlock is turned off" in ended.reason


def test_a_layer_that_is_not_required_may_be_missing_and_is_told() -> None:
    required = tuple(layer for layer in LAYERS_HERE if layer != "landlock")
    with zygote("no_landlock_worker", required) as made:
        worker = Served(made)
        assert worker.layers["landlock"] == (False, "Landlock is turned off")
        assert worker.layers["seccomp"][0]
        assert worker.cell("1 + 1")["result"] == "2"
        worker.close()


@needs(Grade.FULL)
@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
def test_a_host_without_privileges_gets_every_layer(guest_of_nobody: dict[str, str]) -> None:
    script = (
        "import json, socket\n"
        "from tests.support.locked_facts import spawn_and_wait, zygote\n"
        "ours, theirs = socket.socketpair()\n"
        "with zygote('worker_entry') as made:\n"
        " spawn_and_wait(made, theirs, 30); theirs.close()\n"
        " layers = json.loads(ours.recv(65536))\n"
        " ours.sendall(b'\"6 * 7\"\\n')\n"
        " print(json.dumps([layers, json.loads(ours.recv(65536))['result']]))\n"
    )
    done = subprocess.run(
        [PLAIN_PYTHON, "-c", script], env=guest_of_nobody, cwd="/", user=PLAIN_USER, group=PLAIN_USER,
        extra_groups=[], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    layers, result = json.loads(done.stdout)
    assert [(layer, applied) for layer, applied, _ in layers] == [(layer, True) for layer in LAYERS]
    assert result == "42"


@pytest.fixture
def guest_of_nobody() -> Iterator[dict[str, str]]:
    """The environment of a user without privileges who has a guest: a copy of this one's, and its key."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not Path(PLAIN_PYTHON).exists() or version not in os.readlink(PLAIN_PYTHON):
        pytest.skip("needs a system Python of this version, that another user can run")
    guest = find_guest()
    compiled = cache_path(guest.read_code())
    with tempfile.TemporaryDirectory(prefix="rlm-nobody-") as name:
        home = Path(name)
        shutil.copytree(guest.folder, home / "cache/guests" / guest.folder.name)
        shutil.copytree(state_dir(), home / "state")
        if compiled.exists():
            (home / "cache/compiled").mkdir()
            shutil.copy(compiled, home / "cache/compiled")
        for path in (home, *home.rglob("*")):
            os.chown(path, PLAIN_USER, PLAIN_USER)
            path.chmod(0o700 if path.is_dir() else 0o600)
        yield {
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), *(path for path in sys.path if "site-packages" in path)]
            ),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RLM_WASM_CACHE": str(home / "cache"),
            "RLM_WASM_STATE": str(home / "state"),
        }


@pytest.mark.threat("T-054")
def test_a_zygote_with_a_second_thread_does_not_start() -> None:
    with pytest.raises(ZygoteGone, match="2 threads"):
        Zygote.start("tests.support.threaded_worker", process_limits(), required=LAYERS_HERE)


def test_a_fork_that_fails_is_told_and_the_zygote_goes_on() -> None:
    with zygote("childless_worker") as made:
        for _ in range(2):
            answer, ended = exchange(made, {})
            assert (answer, ended.exit_code) == (b"", EXIT_FAILED)
            assert ended.reason.startswith("no fork: ")


def test_a_worker_that_cannot_be_held_is_ended_and_reaped_at_once() -> None:
    with zygote("pidfdless_worker") as made:
        answer, ended = exchange(made, {})
        assert (answer, ended.reason) == (b"", "no fork: Operation not permitted")
        (proper,) = _children(made.pid)
        assert _children(proper) == []


def _children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_layer_that_does_not_exist_cannot_be_required() -> None:
    with pytest.raises(InternalError, match="moat"):
        Zygote.start("tests.support.worker_entry", process_limits(), required=("moat",))


def test_an_entry_that_does_not_exist_is_an_error_that_names_it() -> None:
    with pytest.raises(ZygoteGone, match="no_such_worker"):
        Zygote.start("tests.support.no_such_worker", process_limits(), required=())


def test_the_layers_of_zygote_and_worker_are_all_there_are() -> None:
    assert set(ZYGOTE_LAYERS) | set(WORKER_LAYERS) == set(LAYERS)
    assert not set(ZYGOTE_LAYERS) & set(WORKER_LAYERS)


def test_reports_keep_their_order_and_numbers(warm: Zygote) -> None:
    pairs = [socket.socketpair() for _ in range(8)]
    numbers = [warm.spawn(theirs) for _, theirs in pairs]
    seen: list[int] = []
    while len(seen) < len(numbers):
        for report in warm.wait(SECONDS_MAX):
            assert isinstance(report, Spawned)
            seen.append(report.number)
            os.close(report.pidfd)
    assert seen == numbers
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
    while numbers:
        for report in warm.wait(SECONDS_MAX):
            assert isinstance(report, Exited)
            numbers.remove(report.number)


@pytest.mark.threat("T-050")
def test_more_sessions_or_memory_than_a_worker_may_have_are_refused_by_the_kernel() -> None:
    """The limits are the process's: they hold although the sessions' own would allow more."""
    with zygote("hungry_worker", sessions_max=2, memory_bytes_max=64 * MIB, held_bytes_max=0) as made:
        answer, ended = exchange(made, {"memory_bytes_max": 4096 * MIB, "bytes": 1500 * MIB})
    assert ended.status == 0, ended
    told = json.loads(answer)
    assert 2 <= told["sessions"] <= 4
    assert "no address space" in told["met"]
    assert told["big"] == "memory_exceeded"
    assert told["after"] == "42"

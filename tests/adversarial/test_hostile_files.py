"""A guest does to its files what it likes: they are its own memory, and nobody else's."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.limits import WASM_MEMORY_BYTES
from rlm_wasm.results import CellResult
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.snapshot import MemorySnapshot
from tests.support.sandbox_facts import MIB, boundary_limits, completed, run_cell, session_limits

pytestmark = pytest.mark.guest

FUEL = 30_000_000_000


@pytest.fixture
def fork(guest: LoadedGuest) -> Iterator[Callable[[MemorySnapshot], Session]]:
    made: list[Session] = []

    def make(start: MemorySnapshot) -> Session:
        facts = guest.facts
        made.append(
            Session(guest.program, facts, session_limits(), boundary_limits(), os.urandom, start=start)
        )
        return made[-1]

    yield make
    for session in made:
        session.close()


def error_of(result: CellResult) -> tuple[str, str]:
    assert isinstance(result.error, GuestException), result
    return result.error.type_name, result.error.guest_message


@pytest.mark.threat("T-105")
def test_over_its_bytes_a_cell_meets_no_space_left_and_goes_on(make_session: Callable[..., Session]) -> None:
    session = make_session(files_bytes_max=4 * MIB)
    fill = "with open('/tmp/f', 'wb') as f:\n while True: f.write(b'x' * 65536)"
    kind, message = error_of(run_cell(session, fill))
    assert kind == "OSError"
    assert "No space left on device" in message or "File too large" in message
    assert completed(session, "import os; os.path.getsize('/tmp/f') > 3 << 20").result == "True"
    completed(session, "os.remove('/tmp/f'); open('/tmp/g', 'wb').write(bytes(3 << 20))")
    kind, _ = error_of(run_cell(session, "open('/tmp/h', 'wb').truncate(1 << 40)"))
    assert kind == "OSError"


@pytest.mark.threat("T-105")
def test_files_that_may_be_larger_than_the_memory_end_with_it_and_the_host_lives(
    make_session: Callable[..., Session],
) -> None:
    session = make_session(memory_bytes_max=96 * MIB, files_bytes_max=WASM_MEMORY_BYTES)
    result = run_cell(session, "f = open('/tmp/f', 'wb', buffering=0)\nwhile True: f.write(b'x' * 65536)")
    assert result.outcome in ("guest_exception", "memory_exceeded"), result
    assert session.memory_bytes <= 96 * MIB
    completed(session, "import os; f.close(); os.remove('/tmp/f')")
    assert completed(session, "len(open('/tmp/f', 'wb').write(bytes(1 << 20)) * 'x') >> 20").result == "1"


@pytest.mark.threat("T-106")
def test_a_million_files_end_at_as_many_as_may_be(make_session: Callable[..., Session]) -> None:
    session = make_session(files_max=20_000)
    kind, message = error_of(
        run_cell(session, "import os\nfor k in range(10**6): os.mkdir(f'/tmp/{k}')", fuel_max=FUEL)
    )
    assert (kind, "No space left" in message) == ("OSError", True)
    counted = completed(session, "found = os.listdir('/tmp'); len(found)", fuel_max=FUEL)
    assert counted.result == "19996"
    completed(
        session,
        "import shutil\nfor name in found: os.rmdir('/tmp/' + name)\nopen('/tmp/f', 'w').close()",
        fuel_max=FUEL,
    )
    assert completed(session, "os.listdir('/tmp')").result == "['f']"


@pytest.mark.threat("T-107")
@pytest.mark.parametrize(
    "path",
    ["'../' * 1000 + 'etc/passwd'", "'a' * 4096", "'/'.join('a' * 2048)", "'a\\0b'", "'/proc/1/root'",
     "'\\udcff' * 255",
     "b'\\xff' * 300", "'x/' * 5000", "'tmp/../' * 500 + 'absent'", "'//../dev/sda'"],
)  # fmt: skip
def test_a_path_leads_nowhere_but_into_the_guests_own_tree(session: Session, path: str) -> None:
    source = (
        f"import os\npath = {path}\nseen = set()\n"
        "for act in (open, os.stat, os.listdir, os.remove, os.rmdir, os.readlink, os.chdir,\n"
        "            lambda p: os.rename(p, '/tmp/x'), lambda p: os.truncate(p, 1)):\n"
        " try: act(path); seen.add('done')\n"
        " except (OSError, ValueError) as error: seen.add(type(error).__name__)\n"
        "'done' in seen"
    )
    assert completed(session, source).result == "False"
    assert completed(session, "sorted(os.listdir('/'))").result == "['inputs', 'out', 'tmp']"


@pytest.mark.threat("T-108")
def test_descriptors_that_cells_leave_open_run_out_and_come_back(session: Session) -> None:
    completed(session, "kept = []")
    leak = "for _ in range(100): kept.append(open('/tmp/f', 'ab', buffering=0))"
    for _ in range(10):
        completed(session, leak)
    kind, message = error_of(run_cell(session, leak))
    assert kind == "OSError"
    assert "file descriptors" in message or "open files" in message
    assert completed(session, "len(kept)").result == "1020"
    completed(session, "del kept\nopen('/tmp/f', 'w').write('x')")


@pytest.mark.threat("T-109")
def test_a_fork_and_its_parent_write_the_same_file_each_for_itself(
    session: Session, fork: Callable[[MemorySnapshot], Session]
) -> None:
    completed(session, "f = open('/tmp/f', 'w+'); f.write('start'); f.flush()")
    snapshot = drive(session.snapshot())
    assert snapshot is not None
    others = [fork(snapshot) for _ in range(3)]
    for round_number in range(3):
        completed(session, f"f.write('parent{round_number}' * 5000); f.flush()")
        for k, other in enumerate(others):
            completed(other, f"f.write('{k}' * 40000); f.flush()")
    assert (
        completed(
            session, "f.seek(0); f.read() == 'start' + ''.join(f'parent{k}' * 5000 for k in range(3))"
        ).result
        == "True"
    )
    for k, other in enumerate(others):
        assert completed(other, f"f.seek(0); f.read() == 'start' + '{k}' * 120000").result == "True"
    assert completed(fork(snapshot), "open('/tmp/f').read()").result == "'start'"


@pytest.mark.threat("T-110")
@pytest.mark.parametrize("seed", range(8))
def test_a_tree_of_files_whose_memory_is_spoilt_harms_its_own_session_only(
    make_session: Callable[..., Session], seed: int
) -> None:
    """Bytes of the guest's heap are changed at random; then files are used. Any outcome will do but ours."""
    session, neighbour = make_session(), make_session()
    completed(neighbour, "open('/tmp/f', 'w').write('mine')")
    completed(
        session,
        "import os, shutil\nfor k in range(300):\n os.makedirs(f'/tmp/{k}')\n"
        " open(f'/tmp/{k}/f', 'wb').write(bytes(k * 100))\n"
        "os.symlink('/tmp/1', '/tmp/l')",
        fuel_max=FUEL,
    )
    chance = random.Random(seed)
    memory = session._memory
    end = memory.size
    for _ in range(3_000):
        memory.write(chance.randrange(end - 2_000_000, end - 8) & ~3, chance.randbytes(4))
    for source in (
        "sum(len(open(os.path.join(d, n), 'rb').read()) for d, _, ns in os.walk('/') for n in ns)",
        "shutil.rmtree('/tmp')", "open('/tmp/x', 'w').write('y' * 100000)", "os.listdir('/out')",
    ):  # fmt: skip
        result = run_cell(session, source, fuel_max=FUEL)
        assert result.outcome
        if session.lost:
            break
    assert completed(neighbour, "open('/tmp/f').read()").result == "'mine'"

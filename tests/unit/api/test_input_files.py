"""Inputs as files, and those that stay where they are: by every façade, inline and in a locked worker."""

from __future__ import annotations

import gc
import hashlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from rlm_wasm import InputFile, Policy, Runtime, Sandbox, SandboxSession
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import CellCancelled, RlmWasmError, UsageError
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from tests.support.runtime_facts import Events, Script, running, small_policy

# ruff: noqa: ASYNC240 - a test may wait for its own small files
pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]

MIB = 1 << 20
TEXT = "".join(f"line {number} é\n" for number in range(200_000))


@pytest.fixture(params=["inline", "session"])
def policy(request: pytest.FixtureRequest) -> Policy:
    strict = request.param != "inline"
    return small_policy(sandbox={"isolation": request.param, "require_lockdown": strict})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "big.log"
    made.write_text(TEXT, encoding="utf-8")
    return made


async def test_a_file_stays_where_it_is_and_is_read_as_code_looks_at_it(policy: Policy, path: Path) -> None:
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("context", InputFile(path))
        result = await session.exec(
            "len(context), context[70_000:70_010], context.find('line 199999'), context.count('line'),"
            " sum(1 for line in context), open('/inputs/big.log').read(6)"
        )
        wanted = (len(TEXT), TEXT[70_000:70_010], TEXT.find("line 199999"), 200_000, 200_000, "line 0")
        assert result.result == str(wanted), result.error
        assert result.fuel_used > 5 * len(TEXT.encode())


async def test_values_are_files_by_the_name_that_is_given(policy: Policy) -> None:
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("context", "a,b\n1,漢\n" * 30_000, file="x.csv")
        await session.load("other", b"\0\1")
        result = await session.exec(
            "import os\nname = '/inputs/x.csv'\n"
            "os.listdir('/inputs'), open(name).read() == context, os.stat(name).st_size"
        )
        assert result.result == str((["x.csv"], True, len(("a,b\n1,漢\n" * 30_000).encode())))


async def test_a_fork_and_a_snapshot_keep_what_was_open(policy: Policy, path: Path) -> None:
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("context", InputFile(path))
        await session.exec("f = open('/inputs/big.log', encoding='utf-8')\nf.readline()")
        snapshot = await session.snapshot()
        async with snapshot.session() as fork:
            assert (await fork.exec("f.readline(), context[:6]")).result == str(("line 1 é\n", "line 0"))
            await fork.load("more", "other", file="more.txt")
            assert (await fork.exec("open('/inputs/more.txt').read()")).result == "'other'"
        assert (await session.exec("f.readline()")).result == "'line 1 é\\n'"


async def test_a_snapshot_from_a_file_says_that_its_inputs_are_not_there(
    policy: Policy, path: Path, tmp_path: Path
) -> None:
    async with Sandbox(policy) as box:
        async with box.session() as session:
            await session.load("context", InputFile(path))
            (await session.snapshot()).save(tmp_path / "kept", key=bytes(32))
        async with box.load_snapshot(tmp_path / "kept", key=bytes(32)).session() as session:
            assert "FileNotFoundError" in str((await session.exec("context[:6]")).error)
            await session.load("context", InputFile(path))
            assert (await session.exec("context[:6]")).result == "'line 0'"


async def test_a_file_that_changes_is_told_to_the_code_that_reads_it(policy: Policy, path: Path) -> None:
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("context", InputFile(path))
        await session.exec("context[:10]")
        path.write_text("other")
        assert "Stale" in str((await session.exec("context[100_000:100_010]")).error)
        assert (await session.exec("1 + 1")).result == "2"


READ_ALL = """
import hashlib
digest = hashlib.sha256()
with open('/inputs/raw', 'rb', buffering=0) as file:
    while part := file.read({size}):
        digest.update(part)
digest.hexdigest()
"""


@pytest.mark.parametrize("size", [1 << 20, 300_001])
async def test_all_of_an_input_that_is_read_on_comes_as_it_is(
    policy: Policy, tmp_path: Path, size: int
) -> None:
    data = b"".join(number.to_bytes(8) for number in range(18 * MIB // 8)) + b"the end"
    path = tmp_path / "raw"
    path.write_bytes(data)
    wanted = repr(hashlib.sha256(data).hexdigest())
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("raw", InputFile(path, as_bytes=True))
        for _ in range(2):  # each cell with a window of its own
            assert (await session.exec(READ_ALL.format(size=size))).result == wanted
        snapshot = await session.snapshot()
        async with snapshot.session() as fork:
            assert (await fork.exec(READ_ALL.format(size=size))).result == wanted


@pytest.mark.threat("T-205")
async def test_sessions_that_read_by_turns_get_each_its_own(tmp_path: Path) -> None:
    policy = small_policy(sandbox={"isolation": "shared", "require_lockdown": True})
    async with Sandbox(policy) as box, box.session() as one, box.session() as other:
        for name, session in (("1", one), ("2", other)):
            path = tmp_path / name
            path.write_bytes(name.encode() * 9 * MIB)
            await session.load("raw", InputFile(path, name="raw", as_bytes=True))
        found: dict[str, str | None] = {}

        async def read(name: str, session: SandboxSession) -> None:
            found[name] = (await session.exec(READ_ALL.format(size=MIB))).result

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, "1", one)
            tasks.start_soon(read, "2", other)
        for name in ("1", "2"):
            assert found[name] == repr(hashlib.sha256(name.encode() * 9 * MIB).hexdigest())


async def test_a_read_is_interrupted_and_what_is_read_then_is_what_is_there(
    policy: Policy, tmp_path: Path
) -> None:
    data = b"".join(number.to_bytes(8) for number in range(3 * MIB // 2))
    path = tmp_path / "raw"
    path.write_bytes(data)
    began = anyio.Event()
    async with Sandbox(policy) as box, box.session() as session, anyio.create_task_group() as tasks:
        await session.load("raw", InputFile(path, as_bytes=True))

        async def interrupt() -> None:
            await began.wait()
            session.interrupt()

        tasks.start_soon(interrupt)
        source = (
            "file = open('/inputs/raw', 'rb', buffering=0)\nprint('begun', flush=True)\n"
            "while True:\n    file.seek(0)\n    while file.read(1 << 20): pass"
        )
        result = await session.exec(source, on_output=lambda output: began.set())
        assert isinstance(result.error, CellCancelled)
        wanted = repr(hashlib.sha256(data).hexdigest())
        assert (await session.exec(READ_ALL.format(size=MIB))).result == wanted


async def test_a_file_that_changes_while_it_is_read_on_is_told_and_not_mixed(
    policy: Policy, tmp_path: Path
) -> None:
    path = tmp_path / "raw"
    path.write_bytes(b"1" * 12 * MIB)
    source = (
        "file, parts = open('/inputs/raw', 'rb', buffering=0), set()\nprint('begun', flush=True)\n"
        "while True:\n    file.seek(0)\n"
        "    while part := file.read(1 << 20): parts |= {part.count(b'1') - len(part)}"
    )
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("raw", InputFile(path, as_bytes=True))
        result = await session.exec(source, on_output=lambda output: path.write_bytes(b"2" * 12 * MIB))
        assert "Stale" in str(result.error)
        assert (await session.exec("parts")).result in ("{0}", "set()")


async def test_a_search_is_interrupted_between_two_steps_and_the_session_lives(
    policy: Policy, tmp_path: Path
) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 43)  # hours of it
    fuel = small_policy(
        sandbox={"isolation": policy.sandbox.isolation, "require_lockdown": policy.sandbox.require_lockdown},
        cell={"fuel_max": 10**15},
        budget={"fuel_max": 10**15},
    )
    began = anyio.Event()
    async with Sandbox(fuel) as box, box.session() as session, anyio.create_task_group() as tasks:
        await session.load("context", InputFile(path, as_bytes=True))

        async def interrupt() -> None:
            await began.wait()
            session.interrupt()

        tasks.start_soon(interrupt)
        result = await session.exec(
            "print('begun', flush=True)\ncontext.find(b'x')", on_output=lambda output: began.set()
        )
        assert isinstance(result.error, CellCancelled)
        assert (await session.exec("1 + 1")).result == "2"


async def test_what_is_read_is_paid_for_with_the_cells_fuel(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 40)
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("context", InputFile(path, as_bytes=True))
        result = await session.exec("context.find(b'x')")
        assert result.outcome == "fuel_exhausted"
        # A search of 64 MiB more may have begun.
        assert result.fuel_used <= policy.cell.fuel_max
        assert (await session.exec("1 + 1")).result == "2"


async def test_the_inputs_of_a_run_are_files_and_the_model_is_told(
    policy: Policy, path: Path, tmp_path: Path
) -> None:
    seen = "sorted(os.listdir('/inputs')), open('/inputs/x.csv').read(), context[7:12], table"
    code = f"import os\nFINAL(str(({seen})))"
    script = Script(tmp_path).reply("root", code)
    events = Events()
    texts = small_policy(
        sandbox={"isolation": policy.sandbox.isolation, "require_lockdown": policy.sandbox.require_lockdown},
        events={"texts": True},
    )
    async with Runtime(texts, model=script.spec) as runtime:
        given = {"context": InputFile(path), "table": "a,b"}
        result = await runtime.ask("?", given, sinks=[events.append], file_names={"table": "x.csv"})
    assert result.answer == str((["big.log", "x.csv"], "a,b", TEXT[7:12], "a,b"))
    told = str(events.of("query_received"))
    assert "/inputs/big.log" in told
    assert "LazyText" in told
    assert "/inputs/x.csv" in told
    assert events.of("run_described")[0]["context_files"] == ["big.log", "x.csv"]


async def test_a_replay_knows_a_file_by_its_digest_and_says_when_it_is_missing(
    path: Path, tmp_path: Path
) -> None:
    log = tmp_path / "events.jsonl"
    policy = small_policy(events={"texts": True}, sandbox={"entropy": "seeded", "seed": 7})
    script = Script(tmp_path).reply("root", "FINAL(context[7:12] + open('/inputs/x').read(3))")
    with JsonlSink(log) as sink:
        async with running(policy, script.spec) as runtime:
            given = {"context": InputFile(path, name="x")}
            assert (await runtime.ask("?", given, sinks=[sink.write])).answer == TEXT[7:12] + "lin"
    recording = Recording.open(log)
    found = await replay(recording, {"context": InputFile(path)})
    assert found.difference is None
    with pytest.raises(UsageError, match=r"the input context .* is not in"):
        await replay(recording)
    path.write_text("another")
    with pytest.raises(UsageError, match="not the one that was recorded"):
        await replay(recording, {"context": InputFile(path)})
    with pytest.raises(UsageError, match="not the one that was recorded"):
        await replay(recording, {"context": "another"})


async def test_a_file_that_changes_while_it_is_hashed_is_an_error_of_the_run(
    path: Path, tmp_path: Path
) -> None:
    policy = small_policy(events={"texts": True})
    file = InputFile(path)
    path.write_text("other")
    async with running(policy, Script(tmp_path).reply("root", "FINAL(1)").spec) as runtime:
        with pytest.raises(UsageError, match="changed"):
            await runtime.ask("?", {"context": file})


async def test_a_name_that_no_file_can_have_is_refused(policy: Policy) -> None:
    async with Sandbox(policy) as box, box.session() as session:
        for name in ("a/b", "..", ""):
            with pytest.raises(UsageError, match="no name of a file"):
                await session.load("context", "x", file=name)
        assert (await session.exec("1 + 1")).result == "2"


def test_the_calls_that_are_not_async_take_files(path: Path) -> None:
    policy = small_policy()
    assert Sandbox(policy).exec_sync("context[:6]", context=InputFile(path)).result == "'line 0'"
    with Sandbox(policy).sync() as box, box.session() as session:
        session.load("context", "x", file="y.txt")
        assert session.exec("open('/inputs/y.txt').read()").result == "'x'"
        assert box.exec("context[:6]", context=InputFile(path)).result == "'line 0'"


def test_a_runtime_asks_about_a_file_without_async(path: Path, tmp_path: Path) -> None:
    runtime = Runtime(small_policy(), model=Script(tmp_path).reply("root", "FINAL(context[:6])").spec)
    assert runtime.ask_sync("?", InputFile(path)).answer == "line 0"


async def test_two_files_of_one_name_are_two_inputs(policy: Policy, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text(f"of {folder}")
    code = (
        "import os\nFINAL(str((a[:], b[:], sorted(os.listdir('/inputs')), open('/inputs/x-2.csv').read())))"
    )
    script = Script(tmp_path).reply("root", code)
    inputs = {name: InputFile(tmp_path / name / "x.csv") for name in "ab"}
    async with Runtime(policy, model=script.spec) as runtime:
        result = await runtime.ask("?", inputs)
    assert result.answer == str(("of a", "of b", ["x-2.csv", "x.csv"], "of b"))


async def test_in_a_session_the_first_variable_stays_readable(policy: Policy, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text(f"of {folder}")
    async with Sandbox(policy) as box, box.session() as session:
        for name in "ab":
            await session.load(name, InputFile(tmp_path / name / "x.csv"))
        assert (await session.exec("a[:], b[:], open('/inputs/x.csv').read()")).result == str(
            ("of a", "of b", "of b")
        )


async def test_a_load_that_fails_leaves_the_input_that_was_there(policy: Policy, path: Path) -> None:
    async with Sandbox(policy) as box, box.session() as session:
        await session.load("context", InputFile(path))
        too_large = "x" * (policy.sandbox.memory_bytes_max + 1)
        with pytest.raises(RlmWasmError):
            await session.load("context", too_large, file="big.log")
        assert (await session.exec("context[:6], open('/inputs/big.log').read(6)")).result == str(
            ("line 0", "line 0")
        )


async def test_a_closed_session_keeps_no_input(policy: Policy, path: Path) -> None:
    given = InputFile(path)
    kept = weakref.ref(given)
    async with Sandbox(policy) as box:
        async with box.session() as session:
            await session.load("context", given)
            del given
            gc.collect()
            assert kept() is not None
        gc.collect()
        assert kept() is None
        with pytest.raises(UsageError):
            await session.exec("1")


class Told(InputFile):
    """A file that says when its digest is being made."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun = anyio.Event()
        self.steps = 0

    def hash_into(self, update: Callable[[memoryview], None], offset: int) -> None:
        self.steps += 1
        anyio.from_thread.run_sync(self.begun.set)
        super().hash_into(update, offset)


async def test_a_run_is_cancelled_while_a_large_input_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 43)  # hours of it
    given = Told(path)
    policy = small_policy(events={"texts": True})
    async with Runtime(policy, model=Script(tmp_path).reply("root", "FINAL('x')").spec) as runtime:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runtime.ask, "?", given)
            await given.begun.wait()
            tasks.cancel_scope.cancel()
    assert given.steps <= 2

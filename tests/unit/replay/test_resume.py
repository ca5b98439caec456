"""Runs whose process was killed, taken up where their log ends."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import ArtifactError, ResumeCancelled, RlmWasmError, UsageError
from rlm_wasm.events import Event
from rlm_wasm.policy.model import Policy
from rlm_wasm.policy.render import to_toml
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from rlm_wasm.replay.resume import ResumedRun
from rlm_wasm.results import RunResult
from tests.support.provider_loopback import Loopback, Seen, Write, completion_body, http, loopback_server
from tests.support.runtime_facts import Script
from tests.unit.engine.test_runs_over_http import ENVIRON, policy_at
from tests.unit.replay.test_replay import RECORDED, record, recorded_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback_server() as loopback:
        loopback.behaviour = two_turns
        yield loopback


def two_turns(seen: Seen, write: Write) -> None:
    """Ask for two texts at once in the first turn and for one in the second, then finish."""
    messages: Any = seen.body["messages"]
    if messages[0]["role"] != "system":
        text = messages[-1]["content"].upper()
    elif sum(message["role"] == "assistant" for message in messages) == 0:
        text = "```repl\nparts = llm_query_batched(['a', 'b'])\nprint(parts)\n```"
    else:
        text = "```repl\nparts.append(llm_query('c'))\nFINAL(''.join(parts))\n```"
    write(http("200 OK", completion_body(text)))


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def rows_of(log: Path) -> list[bytes]:
    return log.read_bytes().splitlines(keepends=True)


def keep(log: Path, rows: list[bytes]) -> None:
    log.write_bytes(b"".join(rows))


def under_way(lines: list[dict[str, Any]]) -> int:
    """Return how many attempts a log leaves without an end."""
    ended = ("query_answered", "query_retry")
    return sum(line["kind"] == "query_sent" for line in lines) - sum(line["kind"] in ended for line in lines)


async def resumed(log: Path, new: Path) -> RunResult:
    with JsonlSink(new) as sink:
        run = ResumedRun(Recording.open(log, killed=True), sinks=[sink.write], environ=ENVIRON)
        return await run.drive()


@pytest.mark.parametrize("part", range(6))
async def test_a_log_that_is_cut_anywhere_is_taken_up_and_nothing_answered_is_asked_again(
    server: Loopback, log: Path, tmp_path: Path, part: int
) -> None:
    policy = policy_at(server, **RECORDED)
    assert await record(log, policy, None, environ=ENVIRON) == "ABC"
    whole = rows_of(log)
    asked_in_all = len(server.requests)
    cut, new = tmp_path / "cut.jsonl", tmp_path / "new.jsonl"
    for count in range(2 + part, len(whole) - 1, 6):
        # Within the next line, as where a disk was full, or at its end.
        keep(cut, [*whole[:count], whole[count][: (count % 3) * 9]])
        before = lines_of(log)[:count]
        lost = under_way(before)
        answered = sum(line["kind"] == "query_answered" for line in before)
        server.requests.clear()
        result = await resumed(cut, new)
        assert (result.answer, result.partial) == ("ABC", False)
        assert len(server.requests) == asked_in_all - answered
        after = lines_of(new)
        (came,) = [line["data"] for line in after if line["kind"] == "run_resumed"]
        assert came["in_flight"] == lost
        retries = [line["data"] for line in after if line["kind"] == "query_retry"]
        assert [each["error"] for each in retries] == ["LostInFlight"] * lost
        assert result.spent["calls"] == asked_in_all + lost
        assert rows_of(new)[: came["events"]] == whole[: came["events"]]
        assert after[-1]["kind"] == "run_ended"
        # Also where the log's last input had decided more than the log came to hold.
        found = await replay(Recording.open(new))
        assert (found.difference, found.ended, found.events) == (None, None, len(after))


async def test_a_sink_that_fails_fails_alone(server: Loopback, log: Path, tmp_path: Path) -> None:
    """The others get all events, with those that tell of the run's end; a whole log says why it ended."""
    await record(log, policy_at(server, **RECORDED), None, environ=ENVIRON)
    keep(log, rows_of(log)[:6])
    seen: list[str] = []

    def fails(event: Event) -> None:
        seen.append(event.kind)
        raise RlmWasmError("no room")

    new = tmp_path / "new.jsonl"
    with JsonlSink(new) as sink:
        run = ResumedRun(Recording.open(log, killed=True), sinks=[fails, sink.write], environ=ENVIRON)
        result = await run.drive()
    assert seen == ["run_started"]
    assert "no room" in str(result.unwritten)
    after = lines_of(new)
    assert [line["seq"] for line in after] == list(range(len(after)))
    assert [
        line["kind"] for line in after if line["kind"] in ("run_resumed", "run_stopping", "run_ended")
    ] == [
        "run_resumed",
        "run_stopping",
        "run_ended",
    ]


async def test_what_was_lost_in_flight_costs_its_whole_reservation_and_a_second_loss_another(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    await record(log, policy_at(server, **RECORDED), None, environ=ENVIRON)
    whole = rows_of(log)
    sent = next(n for n, line in enumerate(lines_of(log)) if line["kind"] == "query_sent")
    once, twice = tmp_path / "once", tmp_path / "twice"
    keep(log, whole[: sent + 1])
    await resumed(log, once)
    lines = lines_of(once)
    again = [n for n, line in enumerate(lines) if line["kind"] == "query_sent"][1]
    keep(once, rows_of(once)[: again + 1])
    result = await resumed(once, twice)
    reserved = next(line["data"] for line in lines if line["kind"] == "query_received")
    assert result.answer == "ABC"
    answered = next(line["data"] for line in lines_of(twice) if line["kind"] == "query_answered")
    assert answered["attempts"] == 3
    assert answered["assumed"] is True
    assert answered["output_tokens"] == 2 * reserved["reserved_output_tokens"] + 7
    found = await replay(Recording.open(twice))
    assert (found.difference, found.ended) == (None, None)


async def test_a_run_that_is_over_or_has_other_inputs_or_another_policy_is_refused_in_a_line(
    script: Script, log: Path, tmp_path: Path
) -> None:
    script.reply("root", "print(1)", turn=1).reply("root", "FINAL(len(context))", turn=2)
    await record(log, recorded_policy(), script.spec, "x" * 2_000_000)
    with pytest.raises(UsageError, match=r"this run is over \(finished\)"):
        ResumedRun(Recording.open(log, killed=True), {"context": "x" * 2_000_000})
    keep(log, rows_of(log)[:4])
    recording = Recording.open(log, killed=True)
    with pytest.raises(UsageError, match="is not in"):
        ResumedRun(recording)
    with pytest.raises(UsageError, match="is not the one that was recorded"):
        ResumedRun(recording, {"context": "y" * 2_000_000})
    with pytest.raises(UsageError, match="under another policy"):
        ResumedRun(recording, {"context": "x" * 2_000_000}, policy=Policy.builtin("strict"))
    run = ResumedRun(recording, {"context": "x" * 2_000_000}, policy=recording.policy)
    assert (await run.drive()).answer == "2000000"


async def test_a_guest_of_the_recorded_image_is_what_is_looked_for(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(1)")
    await record(log, recorded_policy(), script.spec)
    keep(log, rows_of(log)[:-1])
    recording = Recording.open(log, killed=True)
    other = recording.policy.replace(sandbox={"image": "not-there"})
    with pytest.raises(ArtifactError, match="not-there"):
        ResumedRun(replace(recording, policy_text=to_toml(other)))


async def test_a_log_that_does_not_come_again_is_refused_and_nothing_is_written_or_asked(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    await record(log, policy_at(server, **RECORDED), None, environ=ENVIRON)
    lines = rows_of(log)
    name = b'"guest_code_sha256":"'
    keep(log, [line.replace(name, name + b"0") for line in lines[:-4]])
    server.requests.clear()
    new = tmp_path / "new.jsonl"
    with pytest.raises(UsageError, match=r"event 1 \(run_described\) does not come again") as raised:
        await resumed(log, new)
    assert "\n" not in raised.value.message
    assert rows_of(new) == []
    assert server.requests == []


async def test_a_log_that_its_run_still_writes_is_left_alone(script: Script, log: Path) -> None:
    script.reply("root", "FINAL(1)")
    await record(log, recorded_policy(), script.spec)
    lines = rows_of(log)
    with log.open("r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="a process writes this log"):
            Recording.open(log, killed=True)
        with pytest.raises(RlmWasmError, match="another run writes this event log"):
            JsonlSink(log)
    assert rows_of(log) == lines
    Recording.open(log, killed=True)


async def test_two_that_would_take_up_one_log_do_not_both(server: Loopback, log: Path) -> None:
    """Both have read it, and nobody wrote it then."""
    await record(log, policy_at(server, **RECORDED), None, environ=ENVIRON)
    keep(log, rows_of(log)[:6])
    first, second = (ResumedRun(Recording.open(log, killed=True), environ=ENVIRON) for _ in range(2))
    server.requests.clear()
    refused: list[str] = []

    async def too_late() -> None:
        with pytest.raises(UsageError) as raised:
            await second.drive()
        refused.append(raised.value.message)
        with pytest.raises(UsageError, match="takes it up"):
            Recording.open(log, killed=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(too_late)
        result = await first.drive()
    assert result.answer == "ABC"
    assert "or takes it up" in refused[0]
    sent = [line for line in lines_of(log) if line["kind"] == "query_answered"]
    assert len(server.requests) == result.spent["calls"] - len(sent)
    Recording.open(log, killed=True)


async def test_a_run_that_is_interrupted_while_its_log_is_repeated_says_so_and_its_log_is_as_good_as_before(
    server: Loopback, log: Path, tmp_path: Path
) -> None:
    await record(log, policy_at(server, **RECORDED), None, environ=ENVIRON)
    keep(log, rows_of(log)[:-4])
    server.requests.clear()
    new = tmp_path / "new.jsonl"
    with JsonlSink(new) as sink:
        run = ResumedRun(Recording.open(log, killed=True), sinks=[sink.write], environ=ENVIRON)

        async def interrupt() -> None:
            with anyio.fail_after(60):
                while run._order.compared < 7:  # its first cell has begun
                    await anyio.lowlevel.checkpoint()
            run.cancel("interrupted")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interrupt)
            with pytest.raises(ResumeCancelled, match="interrupted before the run went on: nothing"):
                await run.drive()
    assert rows_of(new) == []
    assert server.requests == []
    assert (await resumed(log, new)).answer == "ABC"


async def test_a_deadline_counts_from_where_the_log_ends(script: Script, log: Path, tmp_path: Path) -> None:
    """However long nobody ran it: what is left of `run.wall_ms_max` is left."""
    script.reply("root", "print(1)", turn=1).reply("root", "FINAL(budget()['run_ms']['available'])", turn=2)
    await record(log, recorded_policy(), script.spec)
    lines = rows_of(log)
    keep(log, lines[:6])
    last = json.loads(lines[5])["at_ns"] // 1_000_000
    result = await resumed(log, tmp_path / "new.jsonl")
    assert result.answer is not None
    most = recorded_policy().run.wall_ms_max
    assert 0 < int(result.answer) <= most - last

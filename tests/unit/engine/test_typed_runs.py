"""Runs whose answer is to be a value: by a real guest, told in the log and repeated from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest

from rlm_wasm import Event, Runtime
from rlm_wasm.audit.sink import JsonlSink
from rlm_wasm.errors import RunLimitReached, UsageError
from rlm_wasm.outcomes import StopKind
from rlm_wasm.replay.recording import Recording
from rlm_wasm.replay.replay import replay
from rlm_wasm.replay.resume import ResumedRun
from rlm_wasm.results import RunResult
from tests.support.runtime_facts import Script, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio, pytest.mark.usefixtures("guest", "healthy_host")]
RECORDED: dict[str, Any] = {
    "events": {"texts": True},
    "sandbox": {"clock": "virtual", "entropy": "seeded", "seed": 4},
}
PRICES = {"type": "object", "additionalProperties": {"type": "number"}, "required": ["pear"]}


@dataclass
class Item:
    name: str
    price: float


class Order(pydantic.BaseModel):
    items: list[Item]


async def ask(
    folder: Path, output: Any, *turns: str, log: Path | None = None, plain: bool = False, **sections: Any
) -> tuple[RunResult, list[Event]]:
    """Ask a model that sends these blocks, one a turn; with `plain` these words."""
    script = Script(folder)
    for number, code in enumerate(turns, start=1):
        script.reply("root", code, turn=number, plain=plain)
    events: list[Event] = []
    policy = small_policy(**{**RECORDED, **sections})
    async with Runtime(policy, model=script.spec) as runtime:
        if log is None:
            return await runtime.ask("?", output=output, sinks=[events.append]), events
        with JsonlSink(log) as sink:
            return await runtime.ask("?", output=output, sinks=[events.append, sink.write]), events


def of(events: list[Event], kind: str) -> list[Mapping[str, Any]]:
    return [event.data for event in events if event.kind == kind]


@pytest.mark.parametrize(
    ("output", "code", "value", "text"),
    [
        (list[int], "FINAL([n * n for n in range(4)])", [0, 1, 4, 9], "[0,1,4,9]"),
        (dict, "FINAL({'a': (1, None, True), 'é': 'ü'})", {"a": [1, None, True], "é": "ü"}, None),
        (PRICES, "x = {'pear': 3}\nFINAL_VAR('x')", {"pear": 3}, '{"pear":3}'),
        (PRICES, 'answer["content"] = {"pear": 3.5}\nanswer["ready"] = True', {"pear": 3.5}, None),
        (PRICES, "FINAL('{\"pear\": 3}')", {"pear": 3}, '{"pear": 3}'),
        (str, "FINAL('seven')", "seven", "seven"),
        (int, "FINAL(7)", 7, "7"),
        (int | None, "FINAL(None)", None, "null"),
        (dict[int, str], "FINAL({1: 'a'})", {1: "a"}, '{"1":"a"}'),
        (set[str], "FINAL({'a'})", {"a"}, '["a"]'),
        (Order, "from dataclasses import dataclass\n@dataclass\nclass I:\n    name: str\n    price: float\n"
         "FINAL({'items': [I('pear', 2)]})", Order(items=[Item("pear", 2.0)]), None),
        (str, "import datetime\nFINAL(datetime.date(2024, 2, 29))", "2024-02-29", None),
    ],
)  # fmt: skip
async def test_a_value_of_the_guest_is_the_value_that_is_wanted(
    tmp_path: Path, output: Any, code: str, value: Any, text: str | None
) -> None:
    result, events = await ask(tmp_path, output, code)
    assert (result.value, type(result.value), result.checked) == (value, type(value), True)
    assert not result.partial
    assert result.problems == ()
    if text is not None:
        assert result.answer == text
    assert [each["fits"] for each in of(events, "answer_checked")] == [True]


async def test_what_does_not_fit_goes_back_with_its_path_and_the_session_goes_on(tmp_path: Path) -> None:
    result, events = await ask(
        tmp_path,
        Order,
        "found = {'items': [{'name': 'pear', 'price': 'dear'}]}\nprint('looked')\nFINAL(found)",
        "found['items'][0]['price'] = 3\nFINAL(found)",
    )
    assert result.value == Order(items=[Item("pear", 3.0)])
    first, second = of(events, "answer_checked")
    assert (first["fits"], first["form"], first["problems"]) == (False, "json", 1)
    assert first["problem_texts"][0].startswith("$.items[0].price: Input should be a valid number")
    assert second["fits"]
    shown = of(events, "query_received")[1]["texts"][-2]
    assert "looked" in shown
    assert "REPL variables: ['found']" in shown
    assert "$.items[0].price: Input should be a valid number" in shown
    one, two = result.transcript
    assert (one.problems, two.problems) == (tuple(first["problem_texts"]), ())
    (described,) = of(events, "run_described")
    assert described["output"] == "type"
    assert json.loads(described["output_schema"])["title"] == "Order"


async def test_the_answer_dict_does_not_give_the_same_answer_again(tmp_path: Path) -> None:
    result, events = await ask(
        tmp_path,
        list[int],
        'answer["content"] = ["x"]\nanswer["ready"] = True',
        "print(answer)",
        'answer["content"] = [1]\nanswer["ready"] = True',
    )
    assert result.value == [1]
    assert [each["fits"] for each in of(events, "answer_checked")] == [False, True]
    assert "'ready': False" in of(events, "query_received")[2]["texts"][-2]


async def test_what_has_no_json_form_is_an_exception_of_the_guests_own(tmp_path: Path) -> None:
    result, events = await ask(
        tmp_path, list[float], "FINAL([float('nan')])", "FINAL([object()])", "FINAL([1])", plain=False
    )
    assert result.value == [1.0]
    texts = [each["texts"][-2] for each in of(events, "query_received")[1:]]
    assert "ValueError: Out of range float values are not JSON compliant" in texts[0]
    assert "the answer holds a object, which has no JSON form" in texts[1]
    assert len(of(events, "answer_checked")) == 1


async def test_an_answer_outside_of_code_is_checked_too(tmp_path: Path) -> None:
    section = {"observation": {"dialect": "final"}}
    result, events = await ask(tmp_path, list[int], "FINAL(about ten)", "FINAL([10])", plain=True, **section)
    assert (result.value, result.stop.kind) == ([10], StopKind.FINAL)
    assert [each["form"] for each in of(events, "answer_checked")] == ["written", "written"]


async def test_at_a_limit_the_partial_answer_has_no_value_and_says_what_was_wrong(tmp_path: Path) -> None:
    result, _ = await ask(tmp_path, int, "FINAL('many')", "FINAL('more')", run={"turns_max": 2})
    assert (result.answer, result.value, result.checked, result.partial) == ("more", None, False, True)
    assert result.stop.kind is StopKind.ITERATIONS
    assert result.problems[0].startswith("$: Input should be a valid integer")
    with pytest.raises(RunLimitReached):
        result.raise_for_outcome()


@pytest.mark.threat("T-351")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("FINAL([1] * 1_000_000)", "bytes, which is cell.result_bytes_max"),
        ("FINAL('[' * 30_000)", "nested deeper than 100"),
        ("FINAL('[NaN]')", "holds NaN"),
        ("FINAL('[1' + '0' * 30_000 + ']')", "more than 4300 digits"),
        ('FINAL(\'{"a": 1, "a": 2}\')', "twice"),
        (
            "import rlm_queries\nrlm_queries.finish('[' * 30_000, True)\nraise rlm_queries.Finished",
            "nested deeper",
        ),
        ("import rlm_queries\nrlm_queries.finish('[NaN]', True)\nraise rlm_queries.Finished", "holds NaN"),
        ('import _rlm\n_rlm.call(b\'{"type":"finish","answer":"[1,","json":true}\')', "no JSON"),
    ],
)
async def test_a_hostile_answer_is_refused_and_the_run_goes_on(tmp_path: Path, code: str, words: str) -> None:
    result, events = await ask(tmp_path, list[int], code, "FINAL([1])")
    assert result.value == [1]
    first, _ = of(events, "answer_checked")
    assert not first["fits"]
    assert words in first["problem_texts"][0]


async def test_children_and_untyped_runs_answer_as_ever(tmp_path: Path) -> None:
    result, events = await ask(tmp_path, None, "FINAL({'a': 1})")
    assert (result.answer, result.value, result.checked) == ("{'a': 1}", None, False)
    assert of(events, "answer_checked") == []
    assert of(events, "run_described")[0]["output"] == ""


@pytest.mark.parametrize(
    "output", [5, {"type": "strnig"}, {"$ref": "http://x"}, {"type": "null", "title": "x" * 20_000}]
)
async def test_what_cannot_be_wanted_is_told_before_anything_runs(tmp_path: Path, output: Any) -> None:
    with pytest.raises(UsageError):
        await ask(tmp_path, output, "FINAL(1)")


async def test_a_validator_that_breaks_ends_the_run_and_is_raised(tmp_path: Path) -> None:
    class Odd(pydantic.BaseModel):
        a: int

        @pydantic.model_validator(mode="after")
        def check(self) -> Odd:
            raise LookupError("a bug of the program's")

    with pytest.raises(LookupError, match="a bug of the program's"):
        await ask(tmp_path, Odd, "FINAL({'a': 1})")


def test_the_sync_call_takes_it_too(tmp_path: Path) -> None:
    model = Script(tmp_path).reply("root", "FINAL([3])").spec
    assert Runtime(small_policy(), model=model).ask_sync("?", output=list[int]).value == [3]
    with Runtime(small_policy(), model=model).sync() as runtime:
        assert runtime.ask("?", output=list[int]).value == [3]
        assert runtime.start("?", output=list[int]).result().value == [3]


# -- again -------------------------------------------------------------------------------------------

TWICE = ("FINAL(['x'])", "FINAL([1])")
LIST = {"type": "array", "items": {"type": "integer"}}


@pytest.mark.parametrize("output", [LIST, list[int]], ids=["schema", "type"])
async def test_a_replay_needs_nothing_but_the_log(tmp_path: Path, output: Any) -> None:
    log = tmp_path / "events.jsonl"
    await ask(tmp_path, output, *TWICE, log=log)
    found = await replay(Recording.open(log))
    assert (found.difference, found.ended) == (None, None)
    assert found.events == len(log.read_text().splitlines())


async def test_a_replay_tells_the_model_what_the_log_says_was_wrong(tmp_path: Path) -> None:
    """Words of a library change with its version: they are repeated, and not made again."""
    log = tmp_path / "events.jsonl"
    await ask(tmp_path, list[int], *TWICE, log=log)
    words = "$[0]: Input should be a valid integer, unable to parse string as an integer"
    assert words in log.read_text()
    log.write_text(log.read_text().replace(words, "$[0]: was no integer"))
    found = await replay(Recording.open(log))
    assert found.difference is not None
    assert (
        found.difference.field == "data.prompt_bytes"
    )  # the size that the log still has, and nothing before it


def cut_behind(log: Path, kind: str, which: int) -> None:
    lines = log.read_text().splitlines(keepends=True)
    ends = [at for at, line in enumerate(lines) if f'"kind":"{kind}"' in line]
    log.write_text("".join(lines[: ends[which] + 1]))


@pytest.mark.parametrize(
    ("kind", "which"), [("answer_checked", 0), ("answer_declared", 1), ("answer_checked", 1)]
)
@pytest.mark.parametrize("output", [LIST, list[int]], ids=["schema", "type"])
async def test_a_run_is_taken_up_with_what_its_answer_is_to_be(
    tmp_path: Path, output: Any, kind: str, which: int
) -> None:
    log = tmp_path / "events.jsonl"
    await ask(tmp_path, output, *TWICE, log=log)
    cut_behind(log, kind, which)
    events: list[Event] = []
    given = None if output is LIST else output
    result = await ResumedRun(Recording.open(log, killed=True), sinks=[events.append], output=given).drive()
    assert (result.value, result.checked) == ([1], True)
    assert [each["fits"] for each in of(events, "answer_checked")] == [False, True]


async def test_what_is_missing_or_another_is_told(tmp_path: Path) -> None:
    log, plain = tmp_path / "events.jsonl", tmp_path / "plain.jsonl"
    await ask(tmp_path, list[int], *TWICE, log=log)
    await ask(tmp_path, None, "FINAL(1)", log=plain)
    cut_behind(log, "answer_checked", 0)
    cut_behind(plain, "cell_started", 0)
    recording = Recording.open(log, killed=True)
    with pytest.raises(UsageError, match="of a type of its program's, which no log holds"):
        ResumedRun(recording)
    with pytest.raises(UsageError, match="is not the one that the run"):
        ResumedRun(recording, output=list[str])
    with pytest.raises(UsageError, match="had no `output`"):
        ResumedRun(Recording.open(plain, killed=True), output=list[int])

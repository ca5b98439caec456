"""Small cases, as data: what models say and do by mistake, and what must come of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.policy.model import Policy
from tests.support.runtime_facts import Events, running, small_policy

pytestmark = [pytest.mark.guest, pytest.mark.anyio]

CASES = Path(__file__).parents[2] / "cases"


def cases(file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((CASES / file).read_text())["case"]
    return found


def in_dialects() -> list[Any]:
    """Return each case in each dialect that it is for, lenient where the case says so, and in `both`."""
    return [
        pytest.param(case, dialect, lenient, id=f"{dialect}{', lenient' * lenient}: {case['name']}")
        for case in cases("replies.toml")
        for dialect in case.get("dialects", ("answer", "final", "both"))
        for lenient in ((case["lenient"],) if "lenient" in case else (dialect == "both",))
    ]


def saying(folder: Path, turns: list[str], sub: str, finish: str = "stop") -> str:
    """Write a root model that says these turns, the last one again and again. Return its name."""
    path = folder / "model.toml"
    tables = [f'[[reply]]\nrole = "sub"\ntext = {json.dumps(sub)}\n']
    for turn, text in enumerate(turns, 1):
        only = f"turn = {turn}\n" if turn < len(turns) else ""
        tables.append(f'[[reply]]\nrole = "root"\n{only}finish = "{finish}"\ntext = {json.dumps(text)}\n')
    path.write_text("".join(tables))
    return f"script:{path}"


def small(dialect: str, calls: int, *, lenient: bool) -> Policy:
    # Frames as in strict, so that a long answer costs the guest little.
    return small_policy(
        observation={"dialect": dialect, "lenient_fences": lenient},
        run={"turns_max": 4},
        budget={"calls_max": calls},
        cell={"requests_max": 24, "fuel_max": 6_000_000_000},
    )


@pytest.mark.parametrize(("case", "dialect", "lenient"), in_dialects())
async def test_a_conversation_comes_to_what_it_should(
    case: dict[str, Any], dialect: str, lenient: bool, tmp_path: Path
) -> None:
    model = saying(tmp_path, case["turns"], case.get("sub", "yes"), case.get("finish", "stop"))
    events = Events()
    async with running(small(dialect, case.get("calls", 100), lenient=lenient), model) as runtime:
        result = await runtime.ask("?", context=case.get("context", "x"), sinks=[events.append])
    finishes = (case["reason"],) if "reason" in case else ("finished", "final")
    assert result.reason in finishes
    assert result.partial == ("reason" in case)
    if "begins" in case:
        assert str(result.answer).startswith(case["begins"])
    else:
        assert result.answer == case.get("want")
    events.assert_complete()
    assert not any(data["session_lost"] for data in events.of("cell_ended"))


MISTAKES = [pytest.param(case, id=case["name"]) for case in cases("mistakes.toml")]


@pytest.mark.threat("T-152")
@pytest.mark.parametrize("case", MISTAKES)
async def test_a_mistake_is_an_exception_and_costs_no_variable(case: dict[str, Any], tmp_path: Path) -> None:
    code = "\n    ".join(case["code"].split("\n"))
    turns = [
        f"```repl\nkeep = 7\n{case['code']}\n```",  # nobody catches it
        f"```repl\ntry:\n    {code}\nexcept Exception as error:\n    told = error\n```",
        "```repl\nFINAL((keep, type(told).__name__, str(told)))\n```",
    ]
    policy = small_policy(
        boundary={
            "frame_bytes_max": 20_000,
            "control_frame_bytes_max": 1_000,
            "prompt_bytes_max": 1_000,
            "batch_items_max": 4,
        },
        cell={"requests_max": 16},
        run={"depth_max": 1},
    )
    events = Events()
    async with running(policy, saying(tmp_path, turns, "yes")) as runtime:
        result = await runtime.ask("?", sinks=[events.append])
    assert result.reason == "finished"
    assert str(result.answer).startswith(f"(7, '{case['type']}', ")
    for words in case["says"]:
        assert words in str(result.answer).replace("\\'", "'")
    outcomes = [data["outcome"] for data in events.of("cell_ended")]
    assert outcomes == ["guest_exception", "completed", "completed"]
    assert not any(data["session_lost"] for data in events.of("cell_ended"))

"""Queries that are awaited, gathered or submitted: what is begun before it is needed is sent together."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.errors import GuestException
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import Recorder, completed, echo, run_cell

pytestmark = pytest.mark.guest

POOL = "from concurrent.futures import ThreadPoolExecutor, wait\npool = ThreadPoolExecutor(8)\n"
CASES = tomllib.loads((Path(__file__).parents[2] / "cases" / "awaited_queries.toml").read_text())["case"]


def asked(host: Recorder) -> list[list[str]]:
    return [request.get("prompts") or [request["prompt"]] for request in host.requests]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_what_is_begun_before_an_answer_is_needed_is_sent_together(
    session: Session, case: dict[str, Any]
) -> None:
    host = Recorder()
    completed(session, POOL)
    *before, last = case.get("cells") or [case["code"]]
    for cell in before:
        completed(session, cell, answer=host)
    assert completed(session, last, answer=host).result == case.get("result")
    assert asked(host) == case["sent"]


def test_a_cell_that_fails_sends_nothing_that_it_began(session: Session) -> None:
    host = Recorder()
    failed = run_cell(session, f"{POOL}f = pool.submit(llm_query, 'a')\n1/0", host)
    assert "1 were not sent" in failed.stderr
    assert completed(session, "f.cancelled()", answer=host).result == "True"
    run_cell(
        session, f"{POOL}with pool:\n    f = pool.submit(llm_query, 'a')\n    raise KeyboardInterrupt", host
    )
    completed(session, f"{POOL}f = pool.submit(llm_query, 'a')\nFINAL('done')", answer=host)
    assert [request["type"] for request in host.requests] == ["finish"]


def test_work_that_catches_everything_does_not_outlive_its_cell(session: Session) -> None:
    host = Recorder()
    source = (
        f"{POOL}def ask(p):\n    while True:\n        try:\n            return llm_query(p).lower()\n"
        "        except:\n            pass\nf = pool.submit(ask, 'a')\n1/0"
    )
    assert "ZeroDivisionError" in str(run_cell(session, source, host).error)
    assert completed(session, "f.cancelled()", answer=host).result == "True"
    assert host.requests == []


def test_an_error_behind_a_query_names_its_line(session: Session) -> None:
    source = "def ask(p):\n    r = llm_query(p)\n    return 1 / 0\nlist(pool.map(ask, 'ab'))"
    completed(session, POOL)
    error = run_cell(session, source, Recorder()).error
    assert isinstance(error, GuestException)
    assert [line.strip() for line in error.traceback.splitlines() if "File" in line] == [
        'File "<cell 2>", line 4, in <module>',
        'File "<cell 2>", line 3, in ask',
    ]
    assert "return 1 / 0" in error.traceback


def test_what_ends_a_thread_after_it_asked_is_the_cells_to_tell(session: Session) -> None:
    source = (
        "import threading\ndef work(p):\n    r = llm_query(p)\n    raise ValueError(r)\n"
        "threading.Thread(target=work, args=('a',)).start()\nprint('on')"
    )
    result = run_cell(session, source, Recorder())
    assert result.stdout == "on\n"
    assert "ValueError: A" in str(result.error)


def test_failures_are_of_each_query_and_not_of_all(session: Session) -> None:
    def host(frame: bytes) -> bytes:
        assert b"llm_query_batch" in frame
        error = b'{"status":"failed","error":{"type":"ProviderError","message":"down"}}'
        return b'{"status":"completed","items":[{"status":"completed","text":"A"},%s]}' % error

    source = (
        "import asyncio\nrepr(await asyncio.gather(llm_query('a'), llm_query('b'), return_exceptions=True))"
    )
    assert completed(session, source, answer=host).result == "\"['A', ProviderError('down')]\""
    source = f"{POOL}fs = [pool.submit(llm_query, p) for p in 'ab']\nfs[0].result(), repr(fs[1].exception())"
    assert completed(session, source, answer=host).result == "('A', \"ProviderError('down')\")"


def test_arguments_that_are_none_are_told_as_by_a_call(session: Session) -> None:
    told = run_cell(session, "await llm_query('a', temperature=1)").error
    assert "llm_query() got an unexpected keyword argument 'temperature'" in str(told)
    told = run_cell(session, "await llm_query(['a'])").error
    assert "prompt is a str, not a list; llm_query_batched takes a list" in str(told)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("list(pool.map(llm_query, [f'q{i}' for i in range(N)]))", 100),
        ("await asyncio.gather(*[llm_query(f'q{i}') for i in range(N)])", 40),
    ],
)
def test_more_than_a_batch_may_hold_goes_in_several(
    make_session: Callable[..., Session], code: str, count: int
) -> None:
    """The first refusal says how many there may be; later cells know."""
    most = 16
    sizes: list[int] = []

    def host(frame: bytes) -> bytes:
        size = len(asked_of(frame))
        sizes.append(size)
        if size > most:
            told = (
                b'{"type":"LimitExceeded","message":"many","key":"boundary.batch_items_max","limit":%d}'
                % most
            )
            return b'{"status":"denied","error":%s}' % told
        return echo(frame)

    session = make_session(boundary={"batch_items_max": 1_000})
    source = f"{POOL}import asyncio\nN = {count}\nr = {code}\nr == [f'Q{{i}}' for i in range(N)]"
    assert completed(session, source, answer=host).result == "True"
    assert sizes == [count] + [most] * (count // most) + [count % most]
    sizes.clear()
    assert completed(session, source, answer=host).result == "True"
    assert max(sizes) == most


def asked_of(frame: bytes) -> list[Any]:
    host = Recorder()
    host(frame)
    return asked(host)[0]


def test_one_prompt_that_is_too_long_fails_alone(session: Session) -> None:
    def host(frame: bytes) -> bytes:
        if any(len(prompt) > 10 for prompt in asked_of(frame)):
            told = b'{"type":"LimitExceeded","message":"long","key":"boundary.prompt_bytes_max","limit":10}'
            return b'{"status":"denied","error":%s}' % told
        return echo(frame)

    source = (
        f"{POOL}fs = [pool.submit(llm_query, p) for p in ('a', 'b' * 20, 'c')]\n"
        "fs[0].result(), type(fs[1].exception()).__name__, fs[1].exception().limit, fs[2].result()"
    )
    assert completed(session, source, answer=host).result == "('A', 'LimitExceeded', 10, 'C')"

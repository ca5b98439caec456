"""The machines catch broken code: each mutation below is made on purpose, and a machine must fail.

The ledger's machine catches
 1. a check that forgets what is reserved,
 2. a child's budget that is a copy instead of a view,
 3. a call of unknown usage that costs nothing,
 4. a late bill that raises what was spent,
 5. a reservation that is extended and ends as it began.
The permits' machine catches
 6. a run at its share that is forgotten when it gives a permit back,
 7. a run that saves up turns while it wants nothing,
 8. a model's cap that is off by one,
 9. a provider that is slowed again for each refusal of one overload.
The scheduler's machine catches
10. a permit that is kept through a backoff,
11. a late result that counts each time it is reported,
12. a child that outlives its parent,
13. a child whose late finish is delivered as a second response,
14. a session that is not counted while it still ends,
15. a refused request that is not counted,
16. a refused batch that keeps what its first items reserved,
17. a child without a deadline,
18. a retry that is sent on the first attempt's reservation,
19. a cell that begins with fuel that nothing is reserved for,
20. a cell that gets more fuel and no more is reserved,
21. a cell of which nobody knows what it used, and that costs nothing,
22. a child that is gone and keeps its cell's fuel,
23. another model that is asked on what the one before it might have cost,
24. a longer attempt that is reserved with the cap of the one that was cut off,
25. an answer of a cache that is charged.

A mutation replaces one piece of a module's source, which must be there exactly once; the functions
that differ are put in place of the real ones for the length of a test.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from rlm_wasm.scheduler import (
    adaptive,
    batch,
    child_flow,
    fair_queue,
    fuel_flow,
    ledger,
    permits,
    query_flow,
    run_state,
)
from tests.property.test_ledger_machine import LedgerMachine
from tests.property.test_permits_machine import PermitsMachine
from tests.property.test_scheduler_machine import SchedulerMachine

MUTATIONS: list[tuple[type[RuleBasedStateMachine], ModuleType, str, str]] = [
    (
        LedgerMachine,
        ledger,
        "if amount > each.room[place] - each.spent[place] - each.reserved[place]:",
        "if amount > each.room[place] - each.spent[place]:",
    ),
    (LedgerMachine, ledger, "(self, *(within.chain if within else ()))", "(self,)"),
    (
        LedgerMachine,
        ledger,
        "self.absorb(charge if actual is None else actual, view)",
        "self.absorb(NOTHING if actual is None else actual, view)",
    ),
    (LedgerMachine, ledger, "charge if actual is None else actual.at_most(charge)", "actual or charge"),
    (LedgerMachine, ledger, "(held.plus(charge), view)", "(held, view)"),
    (PermitsMachine, permits, "for each in parked:\n                each.enter(share)", "pass"),
    (PermitsMachine, fair_queue, "self.virtual_time = max(self.virtual_time, least)", "pass"),
    (
        PermitsMachine,
        permits,
        "model_queue.held < model_queue.model_max",
        "model_queue.held <= model_queue.model_max",
    ),
    (PermitsMachine, adaptive, "if sent_ns <= self._cut_ns:", "if sent_ns < 0:"),
    (
        SchedulerMachine,
        query_flow,
        "self._permits.release(run.run_id, request.request_id)\n        if given.throttled:",
        "if given.throttled:",
    ),
    (
        SchedulerMachine,
        query_flow,
        "run.unconfirmed.pop((given.request_id, given.attempt), None)",
        "run.unconfirmed.get((given.request_id, given.attempt))",
    ),
    (
        SchedulerMachine,
        child_flow,
        "self.abandon(run, run.children[request_id], gone, stop)",
        "pass",
    ),
    (
        SchedulerMachine,
        child_flow,
        "if child.owes_a_response:\n            self._answer(run, child, ChildStep.FINISH, response)",
        "if True:\n            self._buffer.add(Respond(run.run_id, given.request_id, response))",
    ),
    (
        SchedulerMachine,
        child_flow,
        "1 + len(run.children) >=",
        "1 + sum(each.owes_a_response for each in run.children.values()) >=",
    ),
    (SchedulerMachine, run_state, "self.ledger.spend_one(Dimension.REQUESTS, conversation.view)", "pass"),
    (SchedulerMachine, batch, "for each in accepted:\n        flow.give_back(run, each)", "pass"),
    (
        SchedulerMachine,
        child_flow,
        "self._buffer.set_timer(run, child.deadline_timer, given.request_id, child.deadline_ns)",
        "pass",
    ),
    (
        SchedulerMachine,
        query_flow,
        "reservation = run.ledger.reserve(request.charge, request.conversation.view)\n"
        "        except BudgetExceeded as exc:",
        "reservation = 1\n        except BudgetExceeded as exc:",
    ),
    (
        SchedulerMachine,
        fuel_flow,
        "run.ledger.reserve(Charge(fuel=fuel), conversation.view)",
        "run.ledger.reserve(Charge(), conversation.view)",
    ),
    (SchedulerMachine, fuel_flow, "run.ledger.extend(conversation.fuel, Charge(fuel=fuel))", "pass"),
    (SchedulerMachine, fuel_flow, "used = granted if fuel is None else fuel", "used = fuel or 0"),
    (SchedulerMachine, child_flow, "self._fuel.close(run, child)", "pass"),
    (
        SchedulerMachine,
        query_flow,
        "reservation = run.ledger.reserve(charge, request.conversation.view)",
        "reservation = run.ledger.reserve(request.charge, request.conversation.view)",
    ),
    (
        SchedulerMachine,
        query_flow,
        "reservation = run.ledger.reserve(charge, conversation.view)\n        except",
        "reservation = run.ledger.reserve(request.charge, conversation.view)\n        except",
    ),
    (SchedulerMachine, query_flow, 'if given.cache == "hit":  # nobody was asked', "if False:"),
]


def functions(module: dict[str, Any], name: str) -> dict[str, FunctionType]:
    """Return the module's own functions and methods by their qualified names."""
    found: dict[str, FunctionType] = {}
    for value in module.values():
        if getattr(value, "__module__", None) != name:
            continue
        members = vars(value).values() if inspect.isclass(value) else [value]
        members = [getattr(member, "__func__", member) for member in members]  # a staticmethod's own
        found |= {f.__qualname__: f for f in members if isinstance(f, FunctionType)}
    return found


def mutate(monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str) -> None:
    """Put the functions that the mutation changes in place of the module's own."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} holds it {source.count(old)} times: {old}"
    broken: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(source.replace(old, new), "<mutation>", "exec"), broken)
    changed = 0
    real = functions(vars(module), module.__name__)
    for name, function in functions(broken, module.__name__).items():
        mine = real[name]
        if function.__code__.co_code != mine.__code__.co_code or consts(function) != consts(mine):
            monkeypatch.setattr(mine, "__code__", function.__code__)
            changed += 1
    assert changed, "the mutation changes no function"


def consts(function: FunctionType) -> tuple[object, ...]:
    code = function.__code__
    return (*(c for c in code.co_consts if not inspect.iscode(c)), *code.co_names)


def fails(machine: Callable[[], RuleBasedStateMachine], examples: int) -> bool:
    """Whether the machine finds something wrong, in a search that is the same every time."""
    search = settings(
        max_examples=examples,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=search)
    # Whatever comes out: an assertion, an InternalError, a KeyError, or that nothing was raised.
    except (Exception, pytest.fail.Exception):  # noqa: BLE001
        return True
    return False


@pytest.mark.parametrize(("machine", "module", "old", "new"), MUTATIONS, ids=range(1, len(MUTATIONS) + 1))
def test_broken_code_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    machine: type[RuleBasedStateMachine],
    module: ModuleType,
    old: str,
    new: str,
) -> None:
    mutate(monkeypatch, module, old, new)
    # Most are found within ten; a search that finds something ends there.
    assert fails(machine, 2_000)


@pytest.mark.parametrize("machine", [LedgerMachine, PermitsMachine, SchedulerMachine])
def test_the_same_search_finds_nothing_in_the_code_as_it_is(machine: type[RuleBasedStateMachine]) -> None:
    assert not fails(machine, 60)

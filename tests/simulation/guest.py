"""A guest without WebAssembly: a session that understands a small part of Python, and what limits do to it.

A cell is lines such as ``ask("is it?")`` or ``burn(10_000_000)``. Each is Python, and PRELUDE defines the
names for the real guest, so that one test can hold this session against the real one
(`test_verified_fake.py`). It stands where `vm.session.Session` does: the worker loop, the inline
session and everything above are the real ones.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Final

from rlm_wasm.errors import (
    BoundaryViolation,
    CellCancelled,
    DeadlineExceeded,
    FuelExhausted,
    GuestError,
    GuestTrap,
    InternalError,
    MemoryExceeded,
    OutputExceeded,
    RequestsExceeded,
    UsageError,
)
from rlm_wasm.limits import BoundaryLimits, CellLimits, SessionLimits
from rlm_wasm.protocol.cell import CANCEL_GRACE_NS, FLOOD_FACTOR, Cell, setup_limits
from rlm_wasm.protocol.commands import Requested
from rlm_wasm.protocol.input_value import HeldInput
from rlm_wasm.vm.instance import SLICE_FUEL
from rlm_wasm.vm.interrupt import Reason
from rlm_wasm.vm.snapshot import MemorySnapshot
from rlm_wasm.vm.soft_limits import SoftLimits, slice_fuel
from rlm_wasm.vm.steps import FUEL_NEEDED, SLICE, CellEnd, Sleep, Step
from rlm_wasm.vm.upkeep import Upkeep

# The same words for the real guest.
PRELUDE: Final = """
def show(text): print(text)
def let(name, value): globals()[name] = value
def ask(prompt, model=None): print(llm_query(prompt, model))
def ask_all(prompts): print(*llm_query_batched(prompts), sep="\\n")
def attempt(prompt, model=None):
    try: print(llm_query(prompt, model))
    except QueryError as error: print(type(error).__name__)
def attempt_all(prompts):
    for found in llm_query_batched(prompts, return_exceptions=True):
        print(found if type(found) is str else type(found).__name__)
def child(prompt, budget=None): print(rlm_query(prompt, None, budget))
def children(prompts, budget=None): print(*rlm_query_batched(prompts, None, False, budget), sep="\\n")
def attempt_child(prompt, budget=None):
    try: print(rlm_query(prompt, None, budget))
    except QueryError as error: print(type(error).__name__)
def attempt_children(prompts, budget=None):
    for found in rlm_query_batched(prompts, None, True, budget):
        print(found if type(found) is str else type(found).__name__)
def left(): print(sorted(budget())[0])
def raw(frame):
    import _rlm
    _rlm.call(frame)
def burn(fuel):
    for _ in range(fuel // 1_000): pass
def defy():
    while True:
        try:
            while True: pass
        except BaseException: pass
def nap(ms):
    import time
    time.sleep(ms / 1000)
def flood(count): print("x" * count)
def hog(): bytearray(1 << 30)
def trap():
    import os
    os._exit(3)
def fail(text): raise ValueError(text)
"""
STATEMENT_FUEL: Final = 500_000
FUEL_PER_NS: Final = 12
BASE_BYTES: Final = 16 << 20
CONTEXT_SHOWN_MAX: Final = 200
BUFFER_BYTES: Final = 8_192  # of the guest's stdout
_GuestSteps = Generator[Step, bytes | None, Any]


class _Raised(Exception):
    """An exception of the guest's own code."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(message)
        self.type_name: Final = type_name
        self.message: Final = message


class _Finished(Exception):
    """FINAL was called."""


class SimulatedSnapshot(MemorySnapshot):
    """The state of a simulated guest."""

    def __init__(self, state: dict[str, Any], origin: object) -> None:
        self.state: Final = dict(state)
        self.of: Final = origin


class Guest:
    """What every simulated session of one world shares: a clock, and who is told of wrong answers.

    `work(ns)` is called with the time that guest code took. `wrong(text)` is called where an answer is
    not one to the question that was asked. `fails(resource)` says whether this use of it fails.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        work: Callable[[int], None],
        wrong: Callable[[str], None],
        fails: Callable[[str], bool],
    ) -> None:
        self.clock: Final = clock
        self.work: Final = work
        self.wrong: Final = wrong
        self.fails: Final = fails
        self.signs = True  # whether a final answer names the question it is for
        self.frames = 0
        self.responses = 0


class SimulatedSession:
    """One guest. The same methods, generators and errors as `vm.session.Session`."""

    def __init__(
        self,
        guest: Guest,
        limits: SessionLimits,
        boundary: BoundaryLimits,
        start: MemorySnapshot | None = None,
    ) -> None:
        self._guest = guest
        self._limits = limits
        self._boundary = boundary
        self._state: dict[str, Any] = dict(start.state) if isinstance(start, SimulatedSnapshot) else {}
        self._origin = object()
        self._lost = self._closed = self._busy = False
        self._cancel_wanted = False
        self._fault: GuestError | None = None

    @property
    def memory_bytes_max(self) -> int:
        return self._limits.memory_bytes_max

    @property
    def lost(self) -> bool:
        return self._lost

    @property
    def memory_bytes(self) -> int:
        return BASE_BYTES + sum(
            len(value) for value in self._state.values() if isinstance(value, str | bytes)
        )

    # -- operations ---------------------------------------------------------------------------------

    def run(self, cell: Cell, *, after: Upkeep | None = None) -> Generator[Step, bytes | None, CellEnd]:
        if not isinstance(cell.source, str):
            raise UsageError("a cell is a str")
        if len(cell.source.encode("utf-8", "replace")) > cell.limits.source_bytes_max:
            raise UsageError("the cell is too long")
        self._start(cell.limits, refuels=cell.refuels)
        self._cancel_wanted = after is not None and after.cancel_wanted
        status: int | None = None
        error: bytes | None = None
        try:
            try:
                if self._guest.fails("memory"):
                    raise _Raised("MemoryError", "")
                for name, arguments in _statements(cell.source):
                    yield from _WORDS[name](self, *arguments)
                yield from self._spend(STATEMENT_FUEL)
                status = 0
            except _Finished:
                status = 0
            except _Raised as raised:
                status = 1
                text = f"Traceback (most recent call last):\n{raised.type_name}: {raised.message}\n"
                document = {"type": raised.type_name, "message": raised.message, "traceback": text}
                error = json.dumps(document).encode()
            self._flush()
        except GuestError as fault:
            self._fault = fault
        except GeneratorExit:
            self._fault = CellCancelled("the cell was cancelled")
            raise
        finally:
            self._finish(lost=self._fault is not None or status is None)
        names = [name for name in self._state if not name.startswith("_")]
        return CellEnd(
            raised=status == 1 and self._fault is None,
            fault=self._fault,
            soft=self._soft,
            output_cut=self._dropped > 0,
            stdout=bytes(self._stdout),
            stderr=b"",
            result=None,
            error=error,
            report=json.dumps({"variables": names}).encode() if status is not None else None,
            fuel_used=self._granted - self._fuel,
            memory_bytes=self.memory_bytes,
            executed_ns=self._executed_ns,
        )

    def load(
        self, name: str, value: str | bytes, held: HeldInput | None = None
    ) -> Generator[Step, bytes | None, None]:
        # Its code opens no file, so that what is held for it is never read.
        if not isinstance(name, str) or not name.isidentifier():
            raise UsageError(f"{name!a} is not a variable name")
        if not isinstance(value, str | bytes):
            raise UsageError("give a str or bytes")
        if len(value) > self._limits.context_bytes_max:
            raise UsageError(f"{name} is larger than sandbox.context_bytes_max")
        self._start(None)
        lost = True
        try:
            yield from self._spend(STATEMENT_FUEL)
            if self._guest.fails("memory") or self.memory_bytes + len(value) > self._limits.memory_bytes_max:
                lost = False
                raise MemoryExceeded(f"the guest has no room for {name}")
            for _ in range(1 + len(value) // (1 << 20)):
                yield SLICE
            self._state[f"_input_{name}"] = value
            lost = False
        finally:
            self._finish(lost=lost)

    def snapshot(
        self, *, bytes_max: int | None = None, upkeep: Upkeep | None = None
    ) -> Generator[Step, bytes | None, SimulatedSnapshot | None]:
        self._require_idle()
        yield from self._step(upkeep)
        if bytes_max is not None and self.memory_bytes - BASE_BYTES > bytes_max:
            return None
        return SimulatedSnapshot(self._state, self._origin)

    def _step(self, upkeep: Upkeep | None) -> Generator[Step, bytes | None, None]:
        """One turn for the others while the state is looked after, and a word about what came meanwhile."""
        self._busy, self._cancel_wanted = True, False
        try:
            yield SLICE
            if self._cancel_wanted and upkeep is not None:
                raise CellCancelled("the cell was cancelled")
        finally:
            self._busy = False

    def restore(self, snapshot: SimulatedSnapshot) -> None:
        if self._busy or self._closed:
            raise UsageError("the session is closed" if self._closed else "the session is busy")
        if snapshot.of is not self._origin:
            raise UsageError("a session goes back only to a snapshot of its own")
        self._state = dict(snapshot.state)
        self._lost = False

    def rebase(self) -> Generator[Step, bytes | None, None]:
        self._require_idle()
        yield from self._step(None)
        self._origin = object()

    def interrupt(self) -> None:
        self._cancel_wanted = self._busy

    def refuel(self, fuel: int) -> None:
        if not self._busy or not self._fuel_wanted or self._soft_limits is None:
            raise InternalError("fuel for a cell that did not ask for it")
        self._fuel_wanted = False
        self._refuels = fuel > 0
        if fuel:
            self._granted += fuel
            self._fuel += fuel
            self._soft_limits = SoftLimits.of(replace(self._cell, fuel_max=self._granted))

    def close(self) -> None:
        self._lost = self._closed = True
        self._state = {}

    # -- limits -------------------------------------------------------------------------------------

    def _require_idle(self) -> None:
        if self._lost or self._busy:
            raise UsageError("the session is lost" if self._lost else "the session is busy")

    def _start(self, limits: CellLimits | None, *, refuels: bool = False) -> None:
        self._require_idle()
        setup = setup_limits()
        self._busy = True
        self._cell = limits or setup
        self._soft_limits = SoftLimits.of(limits) if limits else None
        self._soft: GuestError | None = None
        self._fault = None
        self._told = self._cancel_wanted = False
        self._cancel_by_ns: int | None = None
        self._fuel = self._granted = self._cell.fuel_max
        self._refuels, self._fuel_wanted = refuels, False
        self._slice = slice_fuel(self._cell.fuel_max, SLICE_FUEL)
        self._executed_ns = self._slept_ns = self._requests = self._dropped = 0
        self._flooded = False
        self._overslept = False
        self._stdout, self._buffer = bytearray(), bytearray()

    def _finish(self, *, lost: bool) -> None:
        self._busy = False
        self._lost = lost

    def _spend(self, fuel: int, *, defiant: bool = False) -> _GuestSteps:
        """Compute: in slices, between which the host looks at the limits."""
        if self._guest.fails("guest"):
            raise GuestTrap("the guest trapped: unreachable")
        while fuel > 0:
            part = min(fuel, self._slice, self._fuel)
            fuel -= part
            self._fuel -= part
            self._executed_ns += part // FUEL_PER_NS
            self._guest.work(part // FUEL_PER_NS)
            if self._fuel == 0:
                raise FuelExhausted(f"the cell used all of its {self._granted} fuel")
            if fuel > 0:
                self._check_limits(by_fuel=True)
                while self._fuel_wanted:
                    yield FUEL_NEEDED
                    self._check_limits(by_fuel=True)
                yield SLICE
            self._notice(defiant)

    def _check_limits(self, *, by_fuel: bool) -> None:
        if self._executed_ns > self._cell.wall_ms_max * 1_000_000:
            raise DeadlineExceeded(f"the cell ran longer than {self._cell.wall_ms_max} ms")
        if self._cancel_by_ns is not None and self._executed_ns > self._cancel_by_ns:
            raise CellCancelled("the cell was cancelled")
        if self._soft_limits is None or self._soft is not None:
            return
        if self._dropped:
            self._soft = OutputExceeded("the cell wrote too much")
            return
        if self._flooded:
            self._soft = RequestsExceeded("the cell asked too often")
            return
        if self._fuel_wanted:
            raise InternalError("a cell that waits for fuel was resumed without a word about it")
        used = self._granted - self._fuel
        reached = self._soft_limits.reached(
            fuel_used=used if by_fuel else None,
            executed_ns=self._executed_ns,
            cancelled=self._cancel_wanted,
        )
        if reached is not None and reached[0] is Reason.FUEL and self._refuels:
            self._fuel_wanted = True
        elif reached is not None:
            self._soft = reached[1]
            if self._cancel_wanted:
                self._cancel_by_ns = self._executed_ns + CANCEL_GRACE_NS

    def _notice(self, defiant: bool = False) -> None:
        """Raise in the guest what the host wrote into its memory."""
        if self._soft is not None and not self._told and not defiant:
            self._told = True
            raise _Raised(type(self._soft).__name__, self._soft.message)

    # -- words --------------------------------------------------------------------------------------

    def _exchange(self, frame: bytes) -> Generator[Step, bytes | None, dict[str, Any]]:
        yield from self._spend(STATEMENT_FUEL)
        self._requests += 1
        if self._requests > 2 * FLOOD_FACTOR * self._cell.requests_max:
            raise BoundaryViolation("too many requests")
        if self._requests > FLOOD_FACTOR * self._cell.requests_max:
            self._flooded = True
            self._check_limits(by_fuel=False)
            self._notice()
            return {"status": "denied", "error": {"type": "BudgetExceeded", "message": "too many"}}
        if len(frame) > self._boundary.frame_bytes_max:
            return {"status": "denied", "error": {"type": "LimitExceeded", "message": "too long"}}
        self._check_limits(by_fuel=False)
        self._guest.frames += 1
        response = yield Requested(frame)
        if type(response) is not bytes:
            raise InternalError("a session that waits for a response was resumed without one")
        self._guest.responses += 1
        if self._cancel_wanted:
            self._check_limits(by_fuel=False)
        self._notice()
        answer: dict[str, Any] = json.loads(response)
        return answer

    def _query(self, kind: str, prompt: str, **more: Any) -> _GuestSteps:
        request = _request(kind, {"prompt": prompt}, more)
        item = yield from self._exchange(json.dumps(request).encode())
        return self._text(prompt, item)

    def _batch(self, kind: str, prompts: list[str], **more: Any) -> _GuestSteps:
        request = _request(kind, {"prompts": prompts}, more)
        answer = yield from self._exchange(json.dumps(request).encode())
        if answer["status"] != "completed":
            raise _failure(answer)
        if len(answer["items"]) != len(prompts):
            self._guest.wrong(f"{len(answer['items'])} answers to {len(prompts)} prompts")
        return [_outcome(self, prompt, item) for prompt, item in zip(prompts, answer["items"], strict=True)]

    def _text(self, prompt: str, item: dict[str, Any]) -> str:
        if item["status"] != "completed":
            raise _failure(item)
        text: str = item["text"]
        if not is_answer_to(prompt, text):
            self._guest.wrong(f"the answer {text[:80]!a} to {prompt[:80]!a}")
        return text

    def _print(self, text: str) -> None:
        self._buffer += text.encode("utf-8", "backslashreplace") + b"\n"
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()
            self._notice()

    def _flush(self) -> None:
        """Hand the buffered output to the host; what a cell did not flush when it was stopped is lost."""
        data, self._buffer = self._buffer, bytearray()
        kept = data[: self._cell.stdout_bytes_max - len(self._stdout)]
        self._stdout += kept
        self._dropped += len(data) - len(kept)
        if self._dropped:
            self._check_limits(by_fuel=False)

    def do_show(self, text: str) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        self._print(text)

    def do_let(self, name: str, value: Any) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        self._state[name] = value

    def do_ask(self, prompt: str, model: str | None = None) -> _GuestSteps:
        self._print((yield from self._query("llm_query", prompt, model=model)))

    def do_ask_all(
        self, prompts: list[str], budget: Any = None, kind: str = "llm_query_batch"
    ) -> _GuestSteps:
        found = yield from self._batch(kind, prompts, budget=budget)
        for outcome in found:
            if isinstance(outcome, _Raised):
                raise outcome
        self._print("\n".join(found))

    def do_attempt(self, prompt: str, model: str | None = None) -> _GuestSteps:
        yield from self._attempt(self._query("llm_query", prompt, model=model))

    def do_attempt_all(
        self, prompts: list[str], budget: Any = None, kind: str = "llm_query_batch"
    ) -> _GuestSteps:
        found = yield from self._batch(kind, prompts, budget=budget)
        for outcome in found:
            self._print(outcome.type_name if isinstance(outcome, _Raised) else outcome)

    def do_child(self, prompt: str, budget: Any = None) -> _GuestSteps:
        self._print((yield from self._query("rlm_query", prompt, budget=budget)))

    def do_attempt_child(self, prompt: str, budget: Any = None) -> _GuestSteps:
        yield from self._attempt(self._query("rlm_query", prompt, budget=budget))

    def do_children(self, prompts: list[str], budget: Any = None) -> _GuestSteps:
        yield from self.do_ask_all(prompts, budget, "rlm_query_batch")

    def do_attempt_children(self, prompts: list[str], budget: Any = None) -> _GuestSteps:
        yield from self.do_attempt_all(prompts, budget, "rlm_query_batch")

    def _attempt(self, steps: _GuestSteps) -> _GuestSteps:
        try:
            text = yield from steps
        except _Raised as raised:
            if not _is_query_error(raised):
                raise
            text = raised.type_name
        self._print(text)

    def do_left(self) -> _GuestSteps:
        answer = yield from self._exchange(b'{"type":"budget"}')
        if answer["status"] != "completed":
            raise _failure(answer)
        self._print(sorted(answer["budget"])[0])

    def do_raw(self, frame: bytes) -> _GuestSteps:
        yield from self._exchange(frame)

    def do_burn(self, fuel: int) -> _GuestSteps:
        yield from self._spend(fuel)

    def do_defy(self) -> _GuestSteps:
        yield from self._spend(1 << 60, defiant=True)

    def do_nap(self, ms: int) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        if self._slept_ns + ms * 1_000_000 > self._cell.sleep_ms_max * 1_000_000:
            error = DeadlineExceeded(f"the cell slept longer than {self._cell.sleep_ms_max} ms")
            if self._overslept:
                raise error
            self._overslept = True
            self._soft = self._soft or error
            self._notice()
            return
        self._slept_ns += ms * 1_000_000
        if self._limits.clock == "real":
            wake_ns = self._guest.clock() + ms * 1_000_000
            while self._guest.clock() < wake_ns:
                self._check_limits(by_fuel=False)
                yield Sleep(wake_ns)
        self._notice()

    def do_flood(self, count: int) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        self._print("x" * count)

    def do_hog(self) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        raise _Raised("MemoryError", "")

    def do_trap(self) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        raise GuestTrap("the guest's process exited with status 3")

    def do_fail(self, text: str) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        raise _Raised("ValueError", text)

    def do_final(self, answer: str) -> _GuestSteps:
        question = self._state.get("_input_context")
        if isinstance(question, str) and len(question) < CONTEXT_SHOWN_MAX and self._guest.signs:
            answer = f"{answer}|{question}"  # so that whoever asked can see that the answer is to that
        yield from self._exchange(json.dumps({"type": "finish", "answer": answer}).encode())
        raise _Finished

    def do_syntax_error(self) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        raise _Raised("SyntaxError", "invalid syntax")

    def do_name_error(self, name: str) -> _GuestSteps:
        yield from self._spend(STATEMENT_FUEL)
        raise _Raised("NameError", f"name {name!r} is not defined")


_WORDS: Final[dict[str, Callable[..., _GuestSteps]]] = {
    name.removeprefix("do_"): getattr(SimulatedSession, name)
    for name in dir(SimulatedSession)
    if name.startswith("do_")
}


def is_answer_to(prompt: str, text: str) -> bool:
    """Return whether a text is an answer to this prompt: a simulated model's, or a child's."""
    if text.startswith("re "):
        return text.startswith(f"re {prompt}|")
    if text.startswith("done "):
        return text.endswith(f"|{prompt}") or len(prompt) >= CONTEXT_SHOWN_MAX
    return True  # a child's model said it itself, without its guest


def _request(kind: str, asked: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in more.items() if value is not None}
    # In the order in which the guest's own library writes them.
    return {"type": kind} | (asked | given if kind.startswith("llm") else given | asked)


def _statements(source: str) -> list[tuple[str, tuple[Any, ...]]]:
    try:
        parsed = ast.parse(source).body
    except (SyntaxError, ValueError):
        return [("syntax_error", ())]
    found: list[tuple[str, tuple[Any, ...]]] = []
    for line in parsed:
        call = line.value if isinstance(line, ast.Expr) else None
        name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
        name = "final" if name == "FINAL" else name
        if name not in _WORDS:
            return [*found, ("name_error", (name,))]
        assert isinstance(call, ast.Call)
        found.append((name, tuple(ast.literal_eval(argument) for argument in call.args)))
    return found


def _outcome(session: SimulatedSession, prompt: str, item: dict[str, Any]) -> str | _Raised:
    try:
        return session._text(prompt, item)
    except _Raised as raised:
        return raised


_ERRORS: Final = frozenset(
    {
        *("BudgetExceeded", "DepthExceeded", "QueryTimeout", "QueryCancelled", "ProviderError"),
        *("QueryError", "ChildFailed"),
    }
)


def _failure(item: dict[str, Any]) -> _Raised:
    error = item["error"]
    return _Raised(error["type"] if error["type"] in _ERRORS else "QueryError", error["message"])


def _is_query_error(raised: _Raised) -> bool:
    return raised.type_name in _ERRORS

"""rlm-wasm beside its peers: the same snippets, the same clock, on this machine."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter_ns
from typing import Final

from rlm_wasm.bench.peers import PEERS, HostFunction, Peer, PeerAbsent, PeerSession
from rlm_wasm.bench.sandbox_bench import CPU_SNIPPETS
from rlm_wasm.errors import InternalError
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm.session import Session, drive

_CALLS: Final = 200
_SECONDS_MAX: Final = 8.0
_RUNS_MIN: Final = 3
_ANSWER: Final = "ok"
_FRAME: Final = b'{"status":"completed","text":"ok"}'


@dataclass(frozen=True, slots=True)
class PeerFigure:
    """One cell of the table. `value` is None where there is none; `note` says why, or what it is."""

    peer: str
    name: str
    value: float | None
    unit: str
    n: int
    note: str


class _Ours:
    """rlm-wasm itself, in this process, under the policy's limits with fuel and requests to spare."""

    def __init__(self, policy: Policy) -> None:
        self.what: Final = "rlm-wasm, isolation = inline"
        self._policy = policy

    def session(self, answer: HostFunction) -> PeerSession:
        return _OurSession(self._policy)

    def close(self) -> None:
        """The guest belongs to the process."""


class _OurSession:
    ask = "llm_query"

    def __init__(self, policy: Policy) -> None:
        loaded = load_guest_program()
        self._limits = replace(policy.cell, requests_max=10**9, fuel_max=10**15, wall_ms_max=10**6)
        self._session = Session(
            loaded.program, loaded.facts, policy.session_limits(), policy.boundary, os.urandom
        )

    def define(self, source: str) -> None:
        self.value(source)

    def value(self, expression: str) -> str:
        end = drive(self._session.run(Cell(expression, self._limits)), lambda frame: _FRAME)
        if end.fault is not None or end.raised:
            raise InternalError(f"a benchmark's cell failed: {end.fault or end.error!r}")
        return (end.result or b"").decode()

    def close(self) -> None:
        self._session.close()


def measure_peers(
    policy: Policy, *, quick: bool, told: Callable[[str], None] = lambda text: None
) -> list[PeerFigure]:
    """Measure rlm-wasm and each peer that is here; one that is not, or breaks, is a figure that says so."""
    peers: Mapping[str, Callable[[], Peer]] = {"rlm-wasm": lambda: _Ours(policy), **PEERS}
    figures: list[PeerFigure] = []
    for name, find in peers.items():
        told(f"measuring {name} …")
        try:
            peer = find()
        except PeerAbsent as error:
            figures.append(PeerFigure(name, "absent", None, "", 0, str(error)))
            continue
        try:
            figures.append(PeerFigure(name, "present", None, "", 0, peer.what))
            figures += _PeerBench(name, peer, quick=quick).figures()
        finally:
            peer.close()
    return figures


class _PeerBench:
    def __init__(self, name: str, peer: Peer, *, quick: bool) -> None:
        self._name = name
        self._peer = peer
        self._runs_max = 20 if quick else 300
        self._seconds_max = _SECONDS_MAX / 8 if quick else _SECONDS_MAX

    def figures(self) -> list[PeerFigure]:
        taken = [
            self._take("first_result_us", "us", self._first_result),
            self._take("warm_cell_us", "us", self._warm_cell),
            self._take("host_call_us", "us", self._host_call),
        ]
        for snippet, text in CPU_SNIPPETS.items():
            taken.append(self._take(f"{snippet}_ms", "ms", partial(self._cpu, text)))
        return taken

    def _take(self, name: str, unit: str, measure: Callable[[], tuple[float, int, str]]) -> PeerFigure:
        try:
            value, n, note = measure()
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way; that is its figure
            first = str(error).strip().splitlines()[:1]
            return PeerFigure(
                self._name, name, None, unit, 0, f"{type(error).__name__}: {first[0] if first else ''}"[:200]
            )
        return PeerFigure(self._name, name, value, unit, n, note)

    def _first_result(self) -> tuple[float, int, str]:
        open_now: list[PeerSession] = []

        def body() -> None:
            open_now.append(self._peer.session(lambda prompt: _ANSWER))
            _expect(open_now[0], "1+1", "2")

        body()  # caches and pools warm
        open_now.pop().close()
        times = self._times(body, clean_up=lambda: open_now.pop().close())
        return statistics.median(times) / 1e3, len(times), "fresh session to the result of 1+1"

    def _warm_cell(self) -> tuple[float, int, str]:
        session = self._peer.session(lambda prompt: _ANSWER)
        try:
            _expect(session, "1+1", "2")
            times = self._times(lambda: _expect(session, "1+1", "2"))
        finally:
            session.close()
        return statistics.median(times) / 1e3, len(times), "1+1 in a session that has run it before"

    def _host_call(self) -> tuple[float, int, str]:
        session = self._peer.session(lambda prompt: _ANSWER)
        try:
            session.define(
                "p = 'x' * 1024\ndef calls(n):\n"
                f"    for _ in range(n):\n        r = {session.ask}(p)\n    return n\n"
            )
            times = self._times(lambda: _expect(session, f"calls({_CALLS})", str(_CALLS)))
        finally:
            session.close()
        return statistics.median(times) / 1e3 / _CALLS, len(times), f"1 KB and back, mean of {_CALLS} calls"

    def _cpu(self, text: str) -> tuple[float, int, str]:
        namespace: dict[str, object] = {}
        exec(text, namespace)  # noqa: S102 - our own snippet: what the result has to be
        expected = str(eval("run()", namespace))  # noqa: S307
        session = self._peer.session(lambda prompt: _ANSWER)
        try:
            session.define(text)
            _expect(session, "run()", expected)
            times = self._times(lambda: _expect(session, "run()", expected), runs_max=9)
        finally:
            session.close()
        return min(times) / 1e6, len(times), "minimum"

    def _times(
        self,
        body: Callable[[], None],
        *,
        clean_up: Callable[[], None] | None = None,
        runs_max: int | None = None,
    ) -> list[int]:
        """Time `body` until it ran often enough or long enough."""
        times: list[int] = []
        until = perf_counter_ns() + int(self._seconds_max * 1e9)
        while len(times) < (runs_max or self._runs_max):
            if len(times) >= _RUNS_MIN and perf_counter_ns() > until:
                break
            began = perf_counter_ns()
            body()
            times.append(perf_counter_ns() - began)
            if clean_up is not None:
                clean_up()
        return times


def _expect(session: PeerSession, expression: str, result: str) -> None:
    found = session.value(expression).strip()
    if found != result:
        raise InternalError(f"{expression} is {found[:50]!r}, not {result}")

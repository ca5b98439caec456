"""The cost of a session in this process, over the real guest."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from time import thread_time_ns
from typing import Final

from rlm_wasm.bench.measurement import Measurement, median_ns
from rlm_wasm.errors import InternalError
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.limits import CellLimits
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.vm.instance import Instance
from rlm_wasm.vm.session import Session, drive
from rlm_wasm.vm.steps import CellEnd
from rlm_wasm.vm.warm_pool import PREPARED_MAX, WarmPool

_ANSWER: Final = b'{"status":"completed","text":"ok"}'
_CALLS: Final = 2_000
# Each defines run(); the guest's time is divided by this interpreter's for the same text.
CPU_SNIPPETS: Final = {
    "fib": "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
    "def run():\n    return fib(22)\n",
    "loop": "def run():\n    s = 0\n    for i in range(300_000):\n        s += i * i % 7\n    return s\n",
    "json": "import json\nd = [{'id': i, 'v': i * 1.5, 't': ['a', 'b']} for i in range(3000)]\n"
    "def run():\n    return len(json.dumps(json.loads(json.dumps(d))))\n",
    "regex": "import re\ntext = 'lorem ipsum 12345 foo@bar.com dolor ' * 20_000\n"
    "mail = re.compile(r'\\b(\\w+)@(\\w+)\\.com\\b')\ndef run():\n    return len(mail.findall(text))\n",
    "words": "text = 'alpha beta gamma delta ' * 20_000\ndef run():\n    d = {}\n    for w in text.split():\n"
    "        d[w] = d.get(w, 0) + 1\n    return len(d)\n",
}


class SandboxBench:
    """Measurements of sessions. `policy` gives the limits; fuel and requests are raised where needed."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._loaded = load_guest_program()
        self._policy = policy
        self._scale = 10 if quick else 1
        self._limits = replace(policy.cell, requests_max=10**9, fuel_max=10**15, wall_ms_max=10**6)

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        return {
            "instantiate_us": self._instantiate,
            "first_result_us": self._first_result,
            "first_result_cold_us": self._first_result_cold,
            "warm_cell_us": self._warm_cell,
            "host_call_us": self._host_call,
            "str_50mb_ms": lambda: self._load("str_50mb_ms", "x" * 50_000_000, "ASCII"),
            "str_50mb_unicode_ms": lambda: self._load(
                "str_50mb_unicode_ms", "漢字🙂e" * 12_500_000, "CJK and emoji"
            ),
            "str_500mb_ms": lambda: self._load("str_500mb_ms", "x" * 500_000_000, "ASCII"),
            "cpu_ratio": self._cpu_ratio,
        }

    def _session(self, prepared: Instance | None = None) -> Session:
        limits = replace(
            self._policy.session_limits(), memory_bytes_max=(4 << 30) - 65_536, context_bytes_max=1 << 30
        )
        return Session(
            self._loaded.program,
            self._loaded.facts,
            limits,
            self._policy.boundary,
            os.urandom,
            prepared=prepared,
        )

    def _run(self, session: Session, source: str, limits: CellLimits | None = None) -> CellEnd:
        end = drive(session.run(Cell(source, limits or self._limits)), lambda frame: _ANSWER)
        if end.fault is not None or end.raised:
            raise InternalError(f"a benchmark's cell failed: {end.fault or end.error!r}")
        return end

    def _instantiate(self) -> Measurement:
        n = 2_000 // self._scale
        made: list[Session] = []
        middle, tail = median_ns(lambda: made.append(self._session()), n, clean_up=lambda: made.pop().close())
        return Measurement("instantiate_us", middle / 1e3, "us", n, f"p99 {tail / 1e3:.0f} us")

    def _first_result(self) -> Measurement:
        warm_pool = WarmPool(self._loaded.program, self._loaded.facts)

        def refill() -> None:
            while warm_pool.wants:
                warm_pool.work()

        for _ in range(PREPARED_MAX):
            warm_pool.take()
        refill()
        try:
            note = f"of {PREPARED_MAX} prepared while idle, each put back before the next is taken"
            return self._first_results("first_result_us", warm_pool.take, note, clean_up=refill)
        finally:
            warm_pool.close()

    def _first_result_cold(self) -> Measurement:
        return self._first_results("first_result_cold_us", lambda: None, "nothing prepared")

    def _first_results(
        self,
        name: str,
        prepared: Callable[[], Instance | None],
        note: str,
        clean_up: Callable[[], None] = lambda: None,
    ) -> Measurement:
        n = 1_000 // self._scale
        made: list[Session] = []

        def body() -> None:
            made.append(self._session(prepared()))
            if self._run(made[0], "1+1").result != b"2":
                raise InternalError("1+1 is not 2")

        def close() -> None:
            made.pop().close()
            clean_up()

        middle, tail = median_ns(body, n, clean_up=close)
        return Measurement(name, middle / 1e3, "us", n, f"session and 1+1, {note}; p99 {tail / 1e3:.0f} us")

    def _warm_cell(self) -> Measurement:
        n = 2_000 // self._scale
        session = self._session()
        self._run(session, "1+1")
        middle, tail = median_ns(lambda: self._run(session, "1+1"), n)
        session.close()
        return Measurement("warm_cell_us", middle / 1e3, "us", n, f"p99 {tail / 1e3:.0f} us")

    def _host_call(self) -> Measurement:
        n = max(3, 20 // self._scale)
        session = self._session()
        self._run(session, "p = 'x' * 1024\ndef calls(n):\n    for _ in range(n):\n        llm_query(p)")
        source = f"calls({_CALLS})"
        middle, _ = median_ns(lambda: self._run(session, source), n)
        session.close()
        return Measurement(
            "host_call_us",
            middle / 1e3 / _CALLS,
            "us",
            n,
            f"1 KB and back, mean of {_CALLS} calls a run, not decoded",
        )

    def _load(self, name: str, text: str, kind: str) -> Measurement:
        n = max(3, 9 // self._scale)

        made = [self._session()]

        def renew() -> None:
            made.pop().close()
            made.append(self._session())

        middle, _ = median_ns(lambda: drive(made[0].load("context", text)), n, clean_up=renew)
        made.pop().close()
        return Measurement(name, middle / 1e6, "ms", n, f"{len(text)} characters, {kind}, one copy")

    def _cpu_ratio(self) -> Measurement:
        ratios = {name: self._one_cpu_ratio(text) for name, text in CPU_SNIPPETS.items()}
        listed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        return Measurement(
            "cpu_ratio", statistics.geometric_mean(ratios.values()), "x", len(ratios),
            f"guest over this interpreter, minimum of several, geometric mean: {listed}",
        )  # fmt: skip

    def _one_cpu_ratio(self, text: str) -> float:
        rounds = 5 if self._scale == 1 else 3
        namespace: dict[str, object] = {}
        exec(text, namespace)  # noqa: S102 - our own snippet, for comparison
        native = namespace["run"]
        assert callable(native)
        session = self._session()
        self._run(session, text)
        guest_ns = min(_timed(lambda: self._run(session, "run()")) for _ in range(rounds))
        native_ns = min(_timed(native) for _ in range(rounds))
        session.close()
        return guest_ns / native_ns


def _timed(body: Callable[[], object]) -> int:
    began = thread_time_ns()
    body()
    return thread_time_ns() - began

"""What a seed decides before its world begins: limits, faults, and what the operator will do."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Final

from rlm_wasm.policy.model import Policy

_STRICT: Final = Policy.builtin("strict").to_mapping()
# What can fail once, and within how many uses it may be drawn to.
# A start "fails" in that it is given up, or its runtime is closed, while its session is being made.
RESOURCES: Final = {
    "sink": 60, "session": 4, "memory": 12, "guest": 60, "permit": 40, "provider": 40, "start": 5,
}  # fmt: skip


@dataclass
class Plan:
    """What a seed decides. `close_after_ms`: the runs are started, and the runtime closed so much later."""

    policy: Policy
    slow: bool
    faults: float
    runs: int
    # The operator: after this many inputs of the scheduler, in this way.
    cancel_at: int | None
    cancel_how: str
    # Which use of which resource fails: see RESOURCES.
    fails_at: dict[str, int]
    close_after_ms: int | None
    # What happens to the start that fails: its caller's task ends, the operator ends all runs, or closes.
    start_how: str

    @property
    def closes(self) -> bool:
        """Whether the runtime is closed while its runs go on, or may be."""
        return self.close_after_ms is not None or ("start" in self.fails_at and self.start_how == "close")

    @classmethod
    def of(cls, random: Random) -> Plan:
        """Draw a plan."""
        return cls(
            policy=_policy(random),
            slow=random.random() < 0.7,
            faults=random.choice((0.0, 0.1, 0.3, 0.3, 0.6, 0.9)),
            runs=random.choice((1, 2, 2, 3, 5)),
            cancel_at=random.randrange(200) if random.random() < 0.5 else None,
            cancel_how=random.choice(("at once", "soon", "task", "task", "again and again")),
            fails_at=_fails_at(random),
            close_after_ms=random.choice((0, 1, 50, 900)) if random.random() < 0.08 else None,
            start_how=random.choice(("task", "operator", "close")),
        )


def _fails_at(random: Random) -> dict[str, int]:
    # A start is short, so that few of those drawn are hit.
    chance = {"start": 0.3}
    return {
        name: random.randrange(1, within)
        for name, within in RESOURCES.items()
        if random.random() < chance.get(name, 0.07)
    }


def _policy(random: Random) -> Policy:
    pick = random.choice
    wall_ms = pick((1_500, 8_000, 30_000, 120_000, 120_000))
    timeout_ms = min(wall_ms, pick((60, 1_500, 5_000, 5_000)))
    cell_fuel = pick((30_000_000, 2_000_000_000, 8_000_000_000))

    def seldom(tight: int, ample: int) -> int:
        """Most runs must come far, or nothing happens in them."""
        return tight if random.random() < 0.12 else ample

    data: dict[str, Any] = {name: dict(table) for name, table in _STRICT.items()}
    data["sandbox"] |= {
        "checkpoint_bytes_max": pick((0, 1 << 20)),
        "memory_bytes_max": 32 << 20,
        "context_bytes_max": 2 << 20,
        "whole_context_chars_max": 0,
        "clock": pick(("virtual", "real")),
    }
    data["cell"] |= {
        "fuel_max": cell_fuel,
        "wall_ms_max": pick((200, 1_500)),
        "stdout_bytes_max": 100_000,
        "requests_max": pick((12, 40)),
        "sleep_ms_max": 500,
    }
    permits, less = pick((1, 2, 3, 8)), pick((0, 0, 1))
    data["permits"] |= {
        "total_max": permits,
        "provider_max": max(1, permits - less),
        "model_max": max(1, permits - less - pick((0, 0, 1))),
        "adaptive_min": 1,
        "recover_ms": pick((5, 500)),
        "weights": {"heavy": 3},
    }
    data["tenants"] = {
        "share_percent": pick((100, 60, 34)),
        "cells_max": pick((1, 2, 100)),
        "runs_max": 1_000,
    }
    data["run"] |= {
        "wall_ms_max": wall_ms,
        "turns_max": pick((2, 5)),
        "depth_max": seldom(0, pick((1, 2, 3, 3))),
        "fanout_max": pick((2, 5, 8)),
        "sessions_max": pick((3, 8, 16)),
        "child_wall_ms_max": min(wall_ms, pick((600, 5_000, 20_000))),
        "child_share_percent": pick((25, 60, 100)),
        "permits_max": max(1, permits - pick((0, 0, 1))),
        "events_max": pick((16, 40, 4_000, 4_000, 4_000)),
        "reserve_percent": pick((0, 5, 30)),
    }
    data["budget"] |= {
        "calls_max": seldom(7, 200),
        "requests_max": seldom(pick((2, 12)), 300),
        "input_tokens_max": seldom(20_000, 10_000_000),
        "output_tokens_max": seldom(2_000, 100_000),
        "cost_microdollars_max": seldom(20_000, 50_000_000),
        "iterations_max": seldom(3, 60),
        "children_max": seldom(2, 30),
        "observation_bytes_max": seldom(4_000, 10_000_000),
        "fuel_max": cell_fuel * seldom(1, 40),
    }
    data["boundary"] |= {
        "frame_bytes_max": 20_000,
        "control_frame_bytes_max": 1_000,
        "prompt_bytes_max": 4_000,
        "batch_items_max": 8,
        "host_wait_ms_max": timeout_ms * pick((1, 3, 8)),
    }
    data["observation"] |= {
        "bytes_max": pick((120, 2_000)),
        "variables_max": 4,
        "dialect": pick(("answer", "final", "both", "both")),
    }
    data["query"] |= {
        "timeout_ms_max": timeout_ms,
        "attempts_max": pick((1, 3, 5)),
        "backoff_ms_first": pick((1, 20)),
        "backoff_ms_max": pick((20, 300)),
        "input_overhead_tokens": 16,
        "output_tokens_max": pick((50, 400)),
        "batch": pick(("part", "all")),
        "output_tokens_retry_max": pick((0, 900)),
    }
    data["events"] |= {
        "texts": pick((True, False)),
        "buffer_events_max": pick((2, 10, 1_000)),
        "when_full": pick(("drop", "drop", "spill")),
        "spill_bytes_max": pick((500, 1 << 20)),
    }
    price = {"input_microdollars_per_mtok": 2_000_000, "output_microdollars_per_mtok": 4_000_000}
    free = {"input_microdollars_per_mtok": 0, "output_microdollars_per_mtok": 0}
    data["models"] = {
        "root": "one:root",
        "sub": "two:sub",
        "child": pick((["one:root"], ["one:child", "two:deep"])),
        "prices": {name: price for name in ("one:root", "one:child", "two:deep")}
        | {"two:sub": pick((price, free))},
    }
    # Nobody is asked at these: the world routes every model to one of its own.
    endpoint = dict(_STRICT["providers"]["openai"]) | {"kind": "openai"}
    data["providers"] = {"one": endpoint, "two": endpoint}
    return Policy.from_mapping(data)

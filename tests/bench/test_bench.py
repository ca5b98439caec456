"""`rlm-wasm bench` measures what it says; its times are for people and are never asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rlm_wasm.bench import density_bench
from rlm_wasm.bench.measurement import median_ns
from rlm_wasm.errors import InternalError
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.commands import Requested
from rlm_wasm.vm.loaded_guest import LoadedGuest

SOME = {
    "instantiate_us", "first_result_us", "host_call_us", "exec_process_ms", "str_500mb_ms", "fork_us",
    "snapshot_1mb_us", "restore_us", "checkpoint_us", "idle_pss_kb", "suspended_10k_kb_each", "resume_us",
    "query_us", "queries_per_s", "waiting_5000_s", "fanout_1111_s", "waiting_child_kb",
    "locked_first_result_ms", "locked_pss_mb", "shared_first_result_us", "shared_next_result_us",
    "worker_query_us",
    "pool_2000_s", "pool_crowd_s", "pool_cell_ms", "pool_spread_x", "pool_held_mb",
}  # fmt: skip


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlm_wasm.cli.main", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.guest
def test_every_measurement_is_reported_as_one_json_list():
    done = _bench("--json", "--quick")
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    assert {m["name"] for m in taken} >= SOME
    for m in taken:
        assert set(m) == {"name", "value", "unit", "n", "note"}
        assert m["value"] > 0
        assert m["n"] >= 3
        assert m["unit"] in m["name"].split("_") or m["unit"] == "x"


@pytest.mark.guest
def test_one_measurement_can_be_taken_alone():
    done = _bench("--json", "--quick", "--only", "warm_cell_us")
    assert [m["name"] for m in json.loads(done.stdout)] == ["warm_cell_us"]


def test_an_unknown_measurement_is_a_usage_error_that_lists_the_known():
    done = _bench("--only", "speed")
    assert done.returncode == 2
    assert "speed" in done.stderr
    assert "instantiate_us" in done.stderr


@pytest.mark.guest
def test_where_the_kernel_allows_fewer_mappings_fewer_sessions_wait_and_the_note_says_so(
    guest: LoadedGuest, healthy_host: None, strict: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = density_bench._MAPS_RESERVE + 400
    monkeypatch.setattr(density_bench, "_maps_max", lambda: density_bench._maps() + room)
    each = density_bench.DensityBench(strict, quick=True).measurements()["suspended_10k_kb_each"]()
    assert 20 <= each.n < 200
    assert each.note.startswith(f"{each.n} sessions")


def test_a_session_that_waits_again_at_once_is_seen(strict: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_bench, "_SECONDS_MAX", 0.1)
    crowd = density_bench._IdleSessions(strict)
    crowd.close()
    crowd._size = 1

    class AtOnce:
        def submit(self, command: object) -> None:
            crowd._note(Requested(b""))

    monkeypatch.setattr(crowd, "_loop", AtOnce())
    assert len(crowd.resume(3)) == 3


@pytest.mark.guest
def test_too_few_mappings_to_measure_are_an_error_that_names_the_setting(
    guest: LoadedGuest, healthy_host: None, strict: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density_bench, "_maps_max", lambda: 1_000)
    with pytest.raises(InternalError, match="max_map_count"):
        density_bench.DensityBench(strict, quick=True).measurements()["resume_us"]()


def test_the_clock_stops_before_the_clean_up():
    worked, cleaned = [], []

    def slow() -> None:
        cleaned.append(sum(range(2_000_000)))

    with_clean_up, _ = median_ns(lambda: worked.append(1), 5, clean_up=slow)
    alone, tail = median_ns(slow, 5)
    assert (len(worked), len(cleaned)) == (5, 10)
    assert with_clean_up < alone <= tail

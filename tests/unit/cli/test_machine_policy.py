"""The policy of who named none is the strictest that runs here, and no weaker one where that is not known."""

from __future__ import annotations

import resource

import pytest

from rlm_wasm.cli.machine_policy import machine_policy, policy_for
from rlm_wasm.errors import HostExhausted
from rlm_wasm.host import machine_grade


@pytest.mark.threat("T-101")
def test_a_machine_that_is_too_busy_to_be_looked_at_gets_no_weaker_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_grade, "_SECONDS_MAX", 0.0)
    for ask in (machine_policy, lambda: policy_for(inline=False)):
        with pytest.raises(HostExhausted, match="too busy") as caught:
            ask()
        assert "inline" not in str(caught.value.hint)


@pytest.mark.threat("T-101")
def test_nor_does_one_that_is_out_of_something() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(HostExhausted, match="Too many open files"):
            machine_policy()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

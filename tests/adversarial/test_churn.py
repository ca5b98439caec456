"""Many sessions in random order leave nothing behind. `just soak` does the same for as long as you like."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from rlm_wasm.vm.session import Session
from tests.support.churn import RSS_SLACK_KB, Churn, Figures, soak
from tests.support.host_health import assert_same

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-018", "T-027"), pytest.mark.usefixtures("guest")]


def test_sessions_in_random_order_leave_no_descriptor_mapping_or_memory() -> None:
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")  # `python -m tests.support.churn 1500 SEED` takes the same steps
    before, after, steps = soak(1_500, seed)
    assert_same(before.health, after.health)
    assert after.rss_kb - before.rss_kb <= RSS_SLACK_KB, (before, after)
    assert len(steps) == 12, steps
    assert min(steps.values()) > 0


def test_the_same_seed_takes_the_same_steps() -> None:
    first, second = Churn(60, 5), Churn(60, 5)
    first.run()
    second.run()
    assert first.steps == second.steps


def test_a_session_left_open_would_be_noticed(make_session: Callable[..., Session]) -> None:
    before = Figures.now()
    make_session()
    with pytest.raises(AssertionError):
        assert_same(before.health, Figures.now().health)

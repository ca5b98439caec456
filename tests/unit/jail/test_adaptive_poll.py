"""How long a worker stays awake for an answer: long enough for quick ones, not at all for slow ones."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.jail.adaptive_poll import AWAKE_NS_MAX, QUICK_FROM, AdaptivePoll
from rlm_wasm.jail.worker_main import Server
from rlm_wasm.protocol import worker_messages as m
from rlm_wasm.protocol.commands import Requested
from rlm_wasm.protocol.frames import Channel

_SECOND_NS = 1_000_000_000


def used_for_nothing_ns(waits: list[int], processors: int = 2) -> int:
    """Return how long a worker was awake in vain, whose answers take so long."""
    poll, wasted = AdaptivePoll(), 0
    for waited_ns in waits:
        awake = poll.awake_ns(processors)
        if waited_ns > awake:
            wasted += awake
        poll = poll.after(waited_ns)
    return wasted


def test_it_sleeps_at_first_and_stays_awake_after_several_quick_answers() -> None:
    poll, seen = AdaptivePoll(), []
    for _ in range(QUICK_FROM + 3):
        seen.append(poll.awake_ns(2))
        poll = poll.after(AWAKE_NS_MAX)
    assert seen == [0] * QUICK_FROM + [AWAKE_NS_MAX] * 3


def test_one_slow_answer_ends_it() -> None:
    assert AdaptivePoll(QUICK_FROM).awake_ns(2) == AWAKE_NS_MAX
    assert AdaptivePoll(QUICK_FROM).after(AWAKE_NS_MAX + 1).awake_ns(2) == 0


def test_each_wait_in_vain_doubles_what_it_takes_to_begin_again_up_to_a_limit() -> None:
    poll, wanted = AdaptivePoll(), []
    for _ in range(10):
        while not poll.awake_ns(2):
            poll = poll.after(0)
        poll = poll.after(_SECOND_NS)
        wanted.append(poll.wanted)
    assert wanted == [16, 32, 64, 128, 256, 512, 1024, 1024, 1024, 1024]


def test_quick_answers_make_it_forget_the_waits_in_vain_one_by_one() -> None:
    poll = AdaptivePoll(100, 100)
    for _ in range(200):
        poll = poll.after(0)
    assert poll.wanted == QUICK_FROM


def test_a_slow_model_costs_no_processor_time() -> None:
    assert used_for_nothing_ns([_SECOND_NS] * 1_000) == 0


def test_on_one_processor_it_always_sleeps() -> None:
    assert AdaptivePoll(QUICK_FROM).awake_ns(1) == 0


@given(st.lists(st.integers(0, 2 * AWAKE_NS_MAX), max_size=300))
def test_what_is_used_for_nothing_is_bounded_by_the_quick_answers(waits: list[int]) -> None:
    quick = sum(waited_ns <= AWAKE_NS_MAX for waited_ns in waits)
    assert used_for_nothing_ns(waits) <= quick // QUICK_FROM * AWAKE_NS_MAX


def test_a_worker_counts_its_quick_answers_and_only_those() -> None:
    ours, theirs = socket.socketpair()
    server = Server(theirs)
    host = Channel(ours, frame_bytes_max=1_000, unsent_bytes_max=1_000)
    server._operations[1] = 1

    def asked_and_told() -> int:
        server._tell(1, Requested(b"?"))
        host.send(m.encode(m.RespondTo(1, b"!")))
        server.step()
        return server._adaptive_poll.quick

    try:
        assert max(asked_and_told() for _ in range(100)) >= QUICK_FROM
        # Not asked before, so nothing that it waited for is an answer.
        before = server._adaptive_poll
        host.send(m.encode(m.Ping(1)))
        server.step()
        assert server._adaptive_poll is before
    finally:
        server.close()
        host.close()

"""Instances made ahead of need: the same bytes as any other, fewer page faults, and nothing left behind."""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
from collections.abc import Callable, Iterator

import pytest

from rlm_wasm.errors import InternalError, PolicyError
from rlm_wasm.vm import dirty_pages_unsafe as dirty_unsafe
from rlm_wasm.vm import linear_unsafe
from rlm_wasm.vm import warm_pool as stock_module
from rlm_wasm.vm.dirty_pages_unsafe import present_ranges, written_ranges
from rlm_wasm.vm.entropy import seeded_entropy
from rlm_wasm.vm.instance import FirstTouched, Instance
from rlm_wasm.vm.linear_unsafe import RESERVED_BYTES
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.page_profile import profile_pages
from rlm_wasm.vm.session import Session
from rlm_wasm.vm.warm_pool import PREPARED_MAX, WarmPool
from tests.support.sandbox_facts import boundary_limits, completed, run_cell, session_limits

pytestmark = [pytest.mark.guest, pytest.mark.threat("T-031"), pytest.mark.usefixtures("healthy_host")]

CELL = "x = [i for i in range(3)]\nprint(len(x))\nx"


@pytest.fixture
def stock(guest: LoadedGuest, healthy_host: None) -> Iterator[WarmPool]:
    made = WarmPool(guest.program, guest.facts, size_max=3)
    yield made
    made.close()


def fill(stock: WarmPool) -> None:
    """Ask until it grows no more, and let it work until it is full."""
    for _ in range(2 * PREPARED_MAX):
        given = stock.take()
        if given is not None:
            given.close()
    while stock.wants:
        stock.work()


@pytest.fixture
def prepared_session(
    guest: LoadedGuest, stock: WarmPool, healthy_host: None
) -> Iterator[Callable[..., Session]]:
    made: list[Session] = []

    def make(entropy: Callable[[int], bytes] = os.urandom, **limits: int) -> Session:
        while not len(stock):
            fill(stock)
        session = Session(
            guest.program,
            guest.facts,
            session_limits(**limits),
            boundary_limits(),
            entropy,
            prepared=stock.take(),
        )
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


def test_a_prepared_instance_holds_the_base_image_byte_for_byte(guest: LoadedGuest, stock: WarmPool) -> None:
    fill(stock)
    facts = guest.facts
    for _ in range(3):
        instance = stock.take()
        assert instance is not None
        assert instance.memory.size == facts.image_bytes
        whole = ctypes.string_at(instance.memory.base, instance.memory.size)
        assert hashlib.sha256(whole).hexdigest() == facts.image_sha256
        assert instance.stack_pointer() == facts.stack_pointer
        instance.close()


def test_no_guest_code_runs_in_a_prepared_instance(
    guest: LoadedGuest, stock: WarmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one session in which the pages are learned is no part of the stock, and is gone."""
    monkeypatch.setattr(guest.program, "first_touched", None)
    called: list[Instance] = []
    begin = Instance.begin
    monkeypatch.setattr(Instance, "begin", lambda self, *a: (called.append(self), begin(self, *a))[1])
    fill(stock)
    assert len(set(called)) == 1
    assert called[0].closed
    given = [stock.take() for _ in range(3)]
    assert not set(given) & set(called)
    assert linear_unsafe.live_count() == 3
    for instance in given:
        assert instance is not None
        instance.close()


def test_what_a_session_left_in_its_memory_is_not_in_the_next_from_the_stock(
    prepared_session: Callable[..., Session],
) -> None:
    first = prepared_session()
    completed(first, "secret = [b'SECRET-MARK' * 1000 for _ in range(1000)]")
    first.close()
    for _ in range(4):
        later = prepared_session()
        memory = later._instance.memory
        assert b"SECRET-MARK" not in ctypes.string_at(memory.base, memory.size)
        assert completed(later, "'secret' in globals()").result == "False"


def test_two_sessions_from_the_stock_do_not_see_each_other(prepared_session: Callable[..., Session]) -> None:
    one, other = prepared_session(), prepared_session()
    completed(one, "import json\njson.mine = 'one'\nx = 1")
    assert (
        completed(other, "import json\n(hasattr(json, 'mine'), 'x' in globals())").result == "(False, False)"
    )


def test_a_prepared_session_and_another_are_the_same_guest(
    make_session: Callable[..., Session], prepared_session: Callable[..., Session]
) -> None:
    """Same bytes out, same fuel: preparing changes when pages are copied and nothing else."""
    cells = (CELL, "import random\nrandom.random()", "1/0", "import time\ntime.time_ns()")
    runs = []
    for make in (make_session, prepared_session):
        session = make(entropy=seeded_entropy(7, 1))
        runs.append([run_cell(session, cell) for cell in cells])
    for plain, prepared in zip(*runs, strict=True):
        assert (plain.result, plain.stdout, plain.fuel_used, plain.memory_peak_bytes) == (
            prepared.result,
            prepared.stdout,
            prepared.fuel_used,
            prepared.memory_peak_bytes,
        )


def test_a_first_cell_from_the_stock_takes_few_page_faults(
    make_session: Callable[..., Session], prepared_session: Callable[..., Session]
) -> None:
    prepared_session(), make_session()
    taken = []
    for make in (make_session, prepared_session):
        session = make()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        completed(session, CELL)
        taken.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    plain, prepared = taken
    assert plain > 100
    assert prepared < plain // 4, taken


def test_it_holds_no_more_than_it_may_and_prepares_what_was_asked_for(stock: WarmPool) -> None:
    assert not stock.wants
    stock.work()
    assert stock.take() is None
    while stock.wants:
        stock.work()
    assert len(stock) == 1
    fill(stock)
    assert len(stock) == 3
    assert not stock.wants
    stock.work()
    assert linear_unsafe.live_count() == 3


def test_closing_frees_it_also_in_the_middle_of_a_preparation(guest: LoadedGuest) -> None:
    stock = WarmPool(guest.program, guest.facts)
    stock.take()
    for _ in range(3):
        stock.work()
    assert linear_unsafe.live_count() == 1
    stock.close()
    stock.close()
    assert linear_unsafe.live_count() == 0
    assert not stock.wants


def test_the_policys_memory_cap_holds_for_a_prepared_session(
    guest: LoadedGuest, prepared_session: Callable[..., Session]
) -> None:
    cap = guest.facts.image_bytes + (8 << 20)
    session = prepared_session(memory_bytes_max=cap)
    assert run_cell(session, "b = bytearray(16 << 20)").outcome == "memory_exceeded"
    assert session.memory_bytes <= cap
    wide = prepared_session(memory_bytes_max=128 << 20)
    assert completed(wide, "b = bytearray(48 << 20); len(b)").result == str(48 << 20)


def test_a_cap_below_the_image_is_refused_and_frees_the_instance(
    prepared_session: Callable[..., Session],
) -> None:
    with pytest.raises(PolicyError):
        prepared_session(memory_bytes_max=65_536)


def test_where_no_memory_can_be_mapped_the_stock_is_empty_and_asks_again_later(
    stock: WarmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stock)
    given = stock.take()
    assert given is not None
    given.close()
    tried = []

    def refuse(*args: object, **more: object) -> Instance:
        tried.append(args)
        raise InternalError("no address space")

    monkeypatch.setattr(stock_module, "Instance", refuse)
    while stock.wants:
        stock.work()
    assert len(tried) == 1
    assert len(stock) == 2
    monkeypatch.undo()
    fill(stock)
    assert len(stock) == 3


def test_without_the_kernels_answer_instances_are_prepared_without_pages(
    guest: LoadedGuest, stock: WarmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dirty_unsafe, "_way", dirty_unsafe._everything)
    monkeypatch.setattr(guest.program, "first_touched", None)
    assert profile_pages(guest.program, guest.facts) == FirstTouched()
    fill(stock)
    assert len(stock) == 3


def test_the_pages_a_first_cell_touches_are_populated_and_no_others(
    guest: LoadedGuest, stock: WarmPool
) -> None:
    touched = profile_pages(guest.program, guest.facts)
    assert 50 * 4096 < touched.written_bytes < 1_000_000
    fill(stock)
    instance = stock.take()
    assert instance is not None
    base, size = instance.memory.base, instance.memory.size
    assert tuple(written_ranges(base, size)) == touched.written
    here, wanted = present_ranges(base, size), touched.read
    assert sum(length for _, length in here) >= sum(length for _, length in wanted)
    assert size < RESERVED_BYTES
    instance.close()

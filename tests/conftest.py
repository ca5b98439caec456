"""What every test may use: the built guest, sessions over it, and a look at the host's health."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.jail.adopted_guest import adopt_guest
from rlm_wasm.policy.model import Policy
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.session import Session
from tests.support import hostile_cells
from tests.support.host_health import assert_same, health
from tests.support.machine_grade import strict_here
from tests.support.sandbox_facts import boundary_limits, session_limits

# A shell that starts the tests in the background has them ignore SIGINT, and so every command they
# start; those that are about Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An example may take as long as a busy machine makes it take.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both."""
    return str(request.param)


@pytest.fixture(scope="session")
def guest() -> LoadedGuest:
    """The guest this machine has built; `rlm-wasm guest build` makes one."""
    guest_files()  # held by the process from its first worker on, like the program itself
    loaded = load_guest_program()
    adopt_guest(loaded)  # for parts of a worker process that run in this one
    return loaded


@pytest.fixture
def healthy_host() -> Iterator[None]:
    """Fail the test if it leaves a descriptor, a memory or a fiber behind. Set up before what it watches."""
    before = health()
    yield
    assert_same(before, health())


@pytest.fixture
def make_session(guest: LoadedGuest) -> Iterator[Callable[..., Session]]:
    """Return a function that makes a session; keywords override its limits. All are closed at the end."""
    made: list[Session] = []
    before = health()

    def make(
        *, boundary: dict[str, int] | None = None, entropy: Callable[[int], bytes] = os.urandom, **limits: Any
    ) -> Session:
        session = Session(
            guest.program,
            guest.facts,
            session_limits(**limits),
            boundary_limits(**(boundary or {})),
            entropy,
        )
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()
        hostile_cells.let_go(session)
    assert_same(before, health())


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    """One fresh session with small limits."""
    return make_session()


@pytest.fixture
def strict() -> Policy:
    """Return strict as far as this machine can give it."""
    return strict_here()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test whose name has an address in it: two processes would not know it as the same."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: give its parameters ids")

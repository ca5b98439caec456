"""A worker taken over completely, native code and all, gets nothing out of the process it is in."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rlm_wasm.worker.zygote import Zygote
from tests.support.attacks import ATTACKS, WORKS
from tests.support.locked_facts import attack, attack_outside, zygote

pytestmark = [pytest.mark.guest]


@dataclass(frozen=True)
class Target:
    """What of the host could be met: a port that listens, an abstract socket that listens."""

    port: int
    abstract: str


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    name = f"rlm-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen(16)
        yield Target(tcp.getsockname()[1], name)


def _with_neighbour(entry: str) -> Iterator[Zygote]:
    with zygote(entry) as made:
        # One more worker of the same zygote lives all the while: somebody to signal.
        ours, theirs = socket.socketpair()
        with ours, theirs:
            made.spawn(theirs)
            yield made


@pytest.fixture(scope="module")
def locked() -> Iterator[Zygote]:
    yield from _with_neighbour("compromised_worker")


@pytest.fixture(scope="module")
def unfiltered() -> Iterator[Zygote]:
    yield from _with_neighbour("unfiltered_worker")


@pytest.mark.threat("T-040")
@pytest.mark.parametrize("name", ATTACKS)
def test_a_compromised_worker_gets_nothing(locked: Zygote, target: Target, name: str) -> None:
    assert attack(locked, name, target.port, target.abstract) == ATTACKS[name].locked


@pytest.mark.threat("T-041")
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "vfork"])
def test_what_stands_behind_the_filter(unfiltered: Zygote, target: Target, name: str) -> None:
    """Each other layer by itself: with no filter in front of it, most attempts still fail."""
    found = attack(unfiltered, name, target.port, target.abstract)
    assert found in ATTACKS[name].unfiltered.split(" or ")


@pytest.mark.parametrize("name", [name for name, row in ATTACKS.items() if not row.no_control])
def test_each_attempt_works_where_nothing_is_locked_down(target: Target, name: str) -> None:
    """The control: a row that could not succeed anywhere would prove nothing."""
    assert attack_outside(name, target.port, target.abstract) == WORKS

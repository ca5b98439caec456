"""A worker taken over completely, native code and all, gets nothing out of the process it is in.

Under each grade of lock-down that can be brought about here, weaker ones by refusing namespaces.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from rlm_wasm.lockdown import LAYERS_OF, Grade
from tests.support import grades_page
from tests.support.attacks import ATTACKS, WORKS
from tests.support.locked_facts import SECONDS_MAX, attack_outside
from tests.support.machine_grade import HERE, needs

pytestmark = [pytest.mark.guest]

Outcomes = Callable[[Grade, str], dict[str, str]]


def _marks(grade: Grade) -> list[pytest.MarkDecorator]:
    root = os.geteuid() == 0
    rootless = [] if root else [pytest.mark.skipif(grade is Grade.NAMESPACED, reason="only root gets it")]
    return [needs(grade), *rootless]


GRADES = [pytest.param(grade, marks=_marks(grade)) for grade in LAYERS_OF]
# What a container's profile answers to everybody, before any layer of ours is asked.
REFUSED_THERE = frozenset({"EPERM", "ENOSYS"} if HERE is not Grade.FULL else ())


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


@pytest.fixture(scope="module")
def came_of(target: Target) -> Outcomes:
    """Return a function that gives what came of each attempt in workers of an entry, under a grade."""
    known: dict[tuple[Grade, str], dict[str, str]] = {}

    def ask(grade: Grade, entry: str) -> dict[str, str]:
        if (grade, entry) not in known:
            host = [sys.executable, "-m", "tests.support.attacked_host", entry, str(target.port)]
            lower = [sys.executable, "-m", "tests.support.refused_namespaces", grade.value]
            command = [*([] if grade is HERE else lower), *host, target.abstract]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=3 * SECONDS_MAX, check=False
            )
            assert done.returncode == 0, done.stderr
            said = json.loads(done.stdout)
            assert said["grade"] == grade.value
            known[grade, entry] = said["came"]
        return known[grade, entry]

    return ask


def _of(outcomes: dict[str, str], name: str) -> str:
    if name not in outcomes:
        pytest.skip("without a namespace it would reach this machine, should it get through")
    return outcomes[name]


@pytest.mark.threat("T-040")
@pytest.mark.parametrize("grade", GRADES)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_compromised_worker_gets_nothing(came_of: Outcomes, grade: Grade, name: str) -> None:
    assert _of(came_of(grade, "compromised_worker"), name) == ATTACKS[name].locked


@pytest.mark.threat("T-041")
@pytest.mark.parametrize("grade", GRADES)
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "vfork"])
def test_what_stands_behind_the_filter(came_of: Outcomes, grade: Grade, name: str) -> None:
    """Each other layer by itself: with no filter in front of it, most attempts still fail."""
    found = _of(came_of(grade, "unfiltered_worker"), name)
    assert found in {*ATTACKS[name].behind_the_filter(grade).split(" or "), *REFUSED_THERE}


@pytest.mark.threat("T-040")
@pytest.mark.parametrize("name", [name for name, row in ATTACKS.items() if not row.no_control])
def test_each_attempt_works_where_nothing_is_locked_down(target: Target, name: str) -> None:
    """The control: a row that could not succeed anywhere would prove nothing."""
    found = attack_outside(name, target.port, target.abstract)
    if found in ("ENODEV", "ENOENT") and name == "type into a terminal":
        pytest.skip("this machine has no pseudo-terminals")
    if found in REFUSED_THERE:
        pytest.skip(f"this machine refuses it to everybody: {found}")
    assert found == WORKS


@pytest.mark.threat("T-103")
def test_the_threat_model_has_each_attempt_under_each_grade() -> None:
    assert grades_page.PAGE.read_text(encoding="utf-8") == grades_page.page()
    assert grades_page.residual() == ["look at a path", "send a datagram"]

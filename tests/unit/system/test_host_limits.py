"""A limit of the process that leaves guests no room is named before anything meets it."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from rlm_wasm.errors import HostExhausted, InternalError
from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.system.host_limits import HOST_LIMITS, HostLimit, check_host_limits, shortfalls
from rlm_wasm.system.os_errors import is_shortage, wrap_os_error
from tests.support.command_line import COMMAND, environment
from tests.support.machine_grade import POLICY_HERE

SECONDS_MAX = 120
BY_NAME = {limit.name: limit for limit in HOST_LIMITS}


def _under(name: str, value: int) -> Callable[[HostLimit], int | None]:
    return lambda limit: value if limit.name == name else None


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("limit", HOST_LIMITS, ids=lambda limit: limit.name)
def test_each_limit_is_enough_or_is_named_with_what_it_is_and_what_is_needed(
    limit: HostLimit, processes: bool
) -> None:
    needed = limit.processes if processes else limit.inline
    check_host_limits(processes=processes, soft=_under(limit.name, needed))
    check_host_limits(processes=processes, soft=lambda limit: None)
    if needed:
        with pytest.raises(HostExhausted, match=f"{limit.name} is {needed - 1}, and .* {needed} ") as refused:
            check_host_limits(processes=processes, soft=_under(limit.name, needed - 1))
        assert f"ulimit {limit.flag} {limit.in_shell(needed)}" in str(refused.value.hint)


def test_a_machine_without_proc_is_told_how_to_get_it() -> None:
    with pytest.raises(HostExhausted, match="/none is not there") as refused:
        check_host_limits(processes=False, proc="/none")
    assert refused.value.hint == "mount -t proc proc /proc"


def test_all_that_are_too_low_are_told_at_once() -> None:
    with pytest.raises(HostExhausted) as refused:
        check_host_limits(processes=True, soft=lambda limit: 0)
    assert all(name in refused.value.message for name in BY_NAME)


def test_a_worker_takes_no_less_than_a_guest_in_this_process() -> None:
    assert all(limit.processes >= limit.inline for limit in HOST_LIMITS)
    assert list(shortfalls(processes=True, soft=lambda limit: limit.processes)) == []


@pytest.mark.guest
def test_the_files_of_a_guest_fit_what_is_asked_for() -> None:
    files = guest_files()
    largest = max(files.guest.facts.image_bytes, os.fstat(files.code.fd).st_size)
    assert largest <= BY_NAME["RLIMIT_FSIZE"].inline


def _command(name: str, value: int, policy: str) -> subprocess.CompletedProcess[bytes]:
    number = BY_NAME[name].number
    return subprocess.run(
        [*COMMAND, "exec", "--json", "--policy", policy, "-"],
        input=b"6*7", env=environment(), capture_output=True, timeout=SECONDS_MAX, check=False,
        preexec_fn=lambda: resource.setrlimit(number, (value, value)),
    )  # fmt: skip


# What Python itself dies of (its stack) and what does not hold for root (its processes) are left out.
ROOM = [limit for limit in HOST_LIMITS if limit.name not in ("RLIMIT_STACK", "RLIMIT_NPROC")]


@pytest.mark.guest
@pytest.mark.threat("T-104")
@pytest.mark.parametrize("policy", ["standard", POLICY_HERE])
@pytest.mark.parametrize("limit", ROOM, ids=lambda limit: limit.name)
def test_a_session_fits_what_is_asked_for_and_is_refused_in_words_below_it(
    limit: HostLimit, policy: str
) -> None:
    needed = limit.inline if policy == "standard" else limit.processes
    fits = _command(limit.name, needed, policy)
    assert (fits.returncode, json.loads(fits.stdout)["result"]) == (0, "42"), fits.stderr
    # Far below, too, as long as Python itself starts.
    far = {"RLIMIT_AS": needed // 20, "RLIMIT_DATA": needed // 3, "RLIMIT_FSIZE": 1_000}
    for value in {needed - 1, far.get(limit.name, needed // 2)}:
        refused = _command(limit.name, value, policy)
        assert refused.returncode == 2, (value, refused.stderr)
        assert f"{limit.name} is {value}".encode() in refused.stderr, refused.stderr
        assert b"hint: raise it" in refused.stderr


@pytest.mark.guest
@pytest.mark.threat("T-104")
@pytest.mark.parametrize("policy", ["standard", POLICY_HERE])
def test_a_library_is_told_the_same_and_may_try_again(policy: str) -> None:
    script = f"""
import resource
from rlm_wasm import Policy, Sandbox
from rlm_wasm.errors import HostExhausted
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
box = Sandbox(Policy.builtin("{policy}"))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
try:
    box.exec_sync("1")
except HostExhausted as error:
    print(error.message)
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
print(box.exec_sync("6*7").result)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, result = done.stdout.splitlines()
    assert f"RLIMIT_AS is {4 << 30}, and a session takes " in told
    assert result == "42"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OSError(errno.EMFILE, "x"), "RLIMIT_NOFILE"),
        (BlockingIOError(errno.EAGAIN, "x"), "RLIMIT_NPROC"),
        (RuntimeError("can't start new thread"), "RLIMIT_NPROC"),
        (MemoryError(), ""),
        (OSError(errno.ENOSPC, "x"), ""),
    ],
)
def test_a_shortage_names_the_limit_that_may_be_behind_it(error: Exception, name: str) -> None:
    assert is_shortage(error)
    assert wrap_os_error(error, "no").hint is None  # a worker's own limits are the policy's
    failure = wrap_os_error(error, "no", ours=True)
    assert isinstance(failure, HostExhausted)
    limited = bool(name) and resource.getrlimit(BY_NAME[name].number)[0] != resource.RLIM_INFINITY
    assert (failure.hint is not None and name in failure.hint) is limited


def test_what_is_no_shortage_is_our_bug() -> None:
    for error in (RuntimeError("another"), ValueError("x"), OSError(errno.EINVAL, "x")):
        assert not is_shortage(error)
        assert isinstance(wrap_os_error(error, "no"), InternalError)

"""The compiled filter says what the table says, for every call and any argument."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.jail.lockdown import seccomp
from rlm_wasm.jail.lockdown.rule import (
    ALLOW,
    KILL,
    NEXT,
    Action,
    Condition,
    Rule,
    is_int,
    only_bits,
    refuse,
)
from rlm_wasm.jail.lockdown.syscalls import KNOWN_MAX, RULES
from tests.support import bpf

PROGRAM = seccomp.assemble(seccomp.compile_filter(RULES, known_max=KNOWN_MAX))
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
# What nobody may ever add to the table.
_NEVER_TEXT = """
socket connect bind listen accept accept4 socketpair execve execveat fork vfork clone clone3 ptrace
kill tkill process_vm_readv process_vm_writev pidfd_open pidfd_getfd io_uring_setup io_uring_enter
keyctl add_key request_key userfaultfd bpf perf_event_open mount umount2 pivot_root chroot setns
unshare open_by_handle_at name_to_handle_at setuid setresuid capset prctl arch_prctl seccomp
modify_ldt personality shmat shmget pkey_mprotect remap_file_pages memfd_secret prlimit64 setrlimit
init_module finit_module kexec_load reboot splice tee vmsplice open openat2 creat unlink rename link
symlink mkdir
"""
NEVER = _NEVER_TEXT.split()

addresses = st.one_of(
    st.integers(0, 64),
    st.sampled_from([1 << k for k in range(64)]),
    st.integers(0, 2**64 - 1),
    st.sampled_from([v for rule in RULES for condition in rule.when for v in condition.values]),
)
calls = st.one_of(
    st.sampled_from([rule.number for rule in RULES]),
    st.integers(0, KNOWN_MAX + 40),
    st.integers(0, 2**32 - 1),
)


def decide(rules: tuple[Rule, ...], number: int, arguments: tuple[int, ...]) -> str:
    """Return what the table says, in the words of `bpf.meaning`."""
    for rule in rules:
        if rule.number == number:
            action = rule.decide(arguments)
            if action is not NEXT:
                return _word(action)
    if number >= 0x4000_0000:
        return "kill"
    return "ENOSYS" if number > KNOWN_MAX else "kill"


def _word(action: Action) -> str:
    return errno.errorcode[action.error] if action.kind == "errno" else action.kind


@pytest.mark.threat("T-042")
@given(number=calls, arguments=st.tuples(*[addresses] * 6))
def test_the_compiled_filter_answers_as_the_table(number: int, arguments: tuple[int, ...]) -> None:
    found = bpf.meaning(bpf.run(PROGRAM, bpf.seccomp_data(number, arguments)))
    assert found == decide(RULES, number, arguments)


_rules = st.lists(
    st.builds(
        Rule,
        st.just("made up"),
        st.integers(0, 5),
        st.just("a test"),
        st.sampled_from([ALLOW, KILL, refuse(errno.EPERM)]),
        st.lists(
            st.builds(
                Condition,
                st.integers(0, 5),
                st.sampled_from([0xFF, 0xFFFF_FFFF, 2**64 - 1, 0xFFFF_FFFF_0000_0000 | 6, 1 << 40]),
                st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        st.sampled_from([KILL, refuse(errno.EACCES), NEXT]),
    ),
    max_size=8,
).map(tuple)


@given(
    rules=_rules,
    number=st.integers(0, 6),
    arguments=st.tuples(*[st.one_of(st.integers(0, 4), addresses)] * 6),
)
def test_any_table_is_compiled_to_what_it_says(
    rules: tuple[Rule, ...], number: int, arguments: tuple[int, ...]
) -> None:
    program = seccomp.assemble(seccomp.compile_filter(rules, known_max=KNOWN_MAX))
    found = bpf.meaning(bpf.run(program, bpf.seccomp_data(number, arguments)))
    assert found == decide(rules, number, arguments)


@pytest.mark.threat("T-042")
@given(
    number=calls,
    arch=st.one_of(st.sampled_from([0x4000_0003, 0xC000_00B7, 0x3E]), st.integers(0, 2**32 - 1)),
)
def test_a_call_in_another_architectures_way_is_killed_whatever_it_is(number: int, arch: int) -> None:
    if arch != 0xC000_003E:
        assert bpf.meaning(bpf.run(PROGRAM, bpf.seccomp_data(number, (0,) * 6, arch=arch))) == "kill"


@pytest.mark.threat("T-042")
@given(number=st.integers(0, 511))
def test_an_x32_call_is_killed_whatever_it_is(number: int) -> None:
    assert bpf.meaning(bpf.run(PROGRAM, bpf.seccomp_data(0x4000_0000 | number, (0,) * 6))) == "kill"


def test_every_rule_has_its_reason_and_the_number_of_its_name() -> None:
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())) if HEADER.exists() else {}
    for rule in RULES:
        assert rule.why
        if numbers:
            assert int(numbers[rule.name]) == rule.number, rule.name


@pytest.mark.skipif(not HEADER.exists(), reason="needs the kernel's headers for the numbers")
@pytest.mark.threat("T-042")
@pytest.mark.parametrize("name", NEVER)
def test_what_may_never_be_allowed_is_killed(name: str) -> None:
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()))
    data = bpf.seccomp_data(int(numbers[name]), (0,) * 6)
    assert bpf.meaning(bpf.run(PROGRAM, data)) == "kill"


@pytest.mark.threat("T-043")
@given(protection=st.integers(0, 2**64 - 1), flags=st.integers(0, 2**64 - 1), number=st.sampled_from([9, 10]))
def test_no_page_is_ever_made_executable_or_shared(protection: int, flags: int, number: int) -> None:
    arguments = (0, 4096, protection, flags, 2**64 - 1, 0)
    found = bpf.meaning(bpf.run(PROGRAM, bpf.seccomp_data(number, arguments)))
    if protection & ~3 or (number == 9 and flags & 3 != 2):
        assert found == "kill"


def test_a_value_that_no_register_half_holds_is_refused_when_compiling() -> None:
    rule = Rule("made up", 1, "a test", when=(Condition(0, 2**64 - 1, (1 << 40,)),))
    with pytest.raises(ValueError, match="above 32 bits"):
        seccomp.compile_filter([rule], known_max=KNOWN_MAX)


def test_a_filter_longer_than_the_kernel_takes_is_refused_when_compiling() -> None:
    rule = Rule("made up", 1, "a test", when=(is_int(0, *range(100)),))
    with pytest.raises(ValueError, match="instructions"):
        seccomp.compile_filter([rule] * 41, known_max=KNOWN_MAX)


def test_an_int_argument_is_compared_without_its_upper_half() -> None:
    assert is_int(0, -100).holds((2**64 - 100, 0, 0, 0, 0, 0))
    assert is_int(0, 3).holds((0xABCD_0000_0003, 0, 0, 0, 0, 0))
    assert not only_bits(0, 3).holds((0xABCD_0000_0003, 0, 0, 0, 0, 0))

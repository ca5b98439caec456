"""Every system call that a locked worker may make, with what it may say and why it is needed.

Three answers, and the choice between them:

- *allow*: what running sessions, the frames to the host and the C library's allocator need. Found by
  tracing workers under the adversarial programs, and no row is there for a maybe.
- *an error*: what CPython or libc try on the way to something harmless and do without when refused:
  opening a source file to show its line, asking whether a file is a terminal, naming a mapping.
- *kill*: everything else that exists today. No part of a worker makes such a call, so the caller is an
  intruder or a bug of ours; either way one attempt is all there is, and the host sees SIGSYS.

Numbers above `KNOWN_MAX` belong to a later kernel. They are answered with ENOSYS: a newer libc asks for
new calls and falls back, and none of them does anything here.

Numbers are those of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
"""

from __future__ import annotations

import errno
from typing import Final

from rlm_wasm.worker.lockdown.rule import (
    NO_ACCESS,
    NOT_PERMITTED,
    NOT_THERE,
    Rule,
    Test,
    has_bits,
    is_int,
    only_bits,
    refuse,
)

# Descriptors of a worker that keep their numbers; 0 to 2 are /dev/null.
SOCKET_FD: Final = 3
IMAGE_FD: Final = 4
PAGEMAP_FD: Final = 5

KNOWN_MAX: Final = 469

_READ_WRITE: Final = 0x1 | 0x2
_MAP_PRIVATE: Final = 0x02
# private, fixed, anonymous, no reserve, populate, stack: no sharing, no huge or locked pages, no growth down.
_MAP_FLAGS: Final = _MAP_PRIVATE | 0x10 | 0x20 | 0x4000 | 0x8000 | 0x2_0000
_REMAP_MAY_MOVE: Final = 0x1
# dontneed, free, hugepage, nohugepage
_ADVICE: Final = (4, 8, 14, 15)
_MEMFD_FLAGS: Final = 0x1 | 0x2 | 0x8  # close on exec, sealing, never executable
# WAIT, WAKE, WAIT_BITSET, WAKE_BITSET, each private or not, on either clock: no requeue, no PI.
_FUTEX_OPERATIONS: Final = (0, 1, 9, 10)
_FUTEX_FLAGS: Final = 128 | 256
_PAGEMAP_SCAN: Final = 0xC060_6610
_FIONBIO: Final = 0x5421
# getfd, setfd, getfl, setfl, dupfd_cloexec, add_seals, get_seals: no owner, no signal, no lease, no lock.
_FCNTL: Final = (1, 2, 3, 4, 1030, 1033, 1034)
_EMPTY_PATH: Final = 0x1000


def _on_socket(*more: Test) -> tuple[Test, ...]:
    return (is_int(0, SOCKET_FD), *more)


_SENDING: Final = "frames to the host, over the one socket there is"
_RECEIVING: Final = "frames from the host, over the one socket there is"
_SOURCE_LINES: Final = "CPython looks for modules and for source lines to show in a traceback, and copes"
_OWN_FILES: Final = "a memory file is made, filled, sealed and read back when a snapshot is laid out"
_WAITING: Final = "waiting for frames and for the next thing due"
_CLOCKS: Final = "clocks, where the vDSO cannot answer by itself"

RULES: Final[tuple[Rule, ...]] = (
    # Most frequent first: the kernel goes down this list.
    # -- memory: private, and never executable --------------------------------------------------------
    Rule(
        "mmap", 9, "sessions, fibers' stacks, the allocator",
        tests=(only_bits(2, _READ_WRITE), only_bits(3, _MAP_FLAGS), has_bits(3, _MAP_PRIVATE)),
    ),
    Rule("munmap", 11, "sessions end"),
    Rule("mprotect", 10, "a guest's memory grows; the allocator", tests=(only_bits(2, _READ_WRITE),)),
    Rule("madvise", 28, "huge pages for growth; freed pages go back", tests=(is_int(2, *_ADVICE),),
         otherwise=refuse(errno.EINVAL)),
    Rule("mremap", 25, "realloc of large blocks", tests=(only_bits(3, _REMAP_MAY_MOVE),)),
    Rule("brk", 12, "the allocator's heap"),
    # -- frames ---------------------------------------------------------------------------------------
    Rule("recvfrom", 45, _RECEIVING, tests=_on_socket(Test(4, (1 << 64) - 1, (0,)))),
    Rule("sendto", 44, _SENDING, tests=_on_socket(Test(4, (1 << 64) - 1, (0,)))),
    Rule("recvmsg", 47, f"{_RECEIVING}; large inputs come as sealed memory files", tests=_on_socket()),
    Rule("sendmsg", 46, _SENDING, tests=_on_socket()),
    Rule("poll", 7, _WAITING),
    Rule("ppoll", 271, _WAITING),
    # -- descriptors that are open already, and memory files ------------------------------------------
    Rule("read", 0, _OWN_FILES),
    Rule("write", 1, "the last words of a fatal error, to /dev/null; frames"),
    Rule("pread64", 17, f"{_OWN_FILES}; pagemap"),
    Rule("pwrite64", 18, _OWN_FILES),
    Rule("lseek", 8, _OWN_FILES),
    Rule("fstat", 5, _OWN_FILES),
    Rule(
        "newfstatat", 262, "fstat, as glibc spells it since 2.33; paths are refused",
        tests=(has_bits(3, _EMPTY_PATH),), otherwise=NO_ACCESS,
    ),
    Rule("ftruncate", 77, _OWN_FILES),
    Rule("memfd_create", 319, _OWN_FILES, tests=(only_bits(1, _MEMFD_FLAGS, 32),)),
    Rule("close", 3, _OWN_FILES),
    Rule("fcntl", 72, "sealing; close-on-exec and blocking of the socket", tests=(is_int(1, *_FCNTL),)),
    Rule(
        "ioctl", 16, "PAGEMAP_SCAN tells a snapshot what was written; FIONBIO is Python's setblocking",
        tests=(is_int(1, _PAGEMAP_SCAN, _FIONBIO),), otherwise=refuse(errno.ENOTTY),
    ),
    # -- time and waiting -----------------------------------------------------------------------------
    Rule(
        "futex", 202, "Python's locks",
        tests=(Test(1, 0xFFFF_FFFF & ~_FUTEX_FLAGS, _FUTEX_OPERATIONS),), otherwise=NOT_THERE,
    ),
    Rule("clock_gettime", 228, _CLOCKS),
    Rule("gettimeofday", 96, _CLOCKS),
    Rule("clock_nanosleep", 230, _WAITING),
    Rule("sched_yield", 24, "Python's locks"),
    Rule("restart_syscall", 219, "the kernel resumes an interrupted wait"),
    Rule("getrusage", 98, "the worker says what CPU time it used"),
    Rule("getrandom", 318, "fresh entropy for sessions"),
    Rule("getpid", 39, "Python asks before it reseeds"),
    Rule("gettid", 186, "Python's locks name their owner"),
    # -- a guest's faults are signals that wasmtime handles -------------------------------------------
    Rule("rt_sigreturn", 15, "a trap of the guest is a signal"),
    Rule("rt_sigprocmask", 14, "a trap of the guest is a signal"),
    Rule("rt_sigaction", 13, "wasmtime's and abort's handlers; of this process alone"),
    Rule("sigaltstack", 131, "wasmtime's handlers have a stack of their own"),
    # -- the end --------------------------------------------------------------------------------------
    Rule("exit_group", 231, "the worker ends"),
    Rule("exit", 60, "the worker ends"),
    # -- refused without a kill, because honest code asks ---------------------------------------------
    Rule("openat", 257, _SOURCE_LINES, then=NO_ACCESS),
    Rule("open", 2, _SOURCE_LINES, then=NO_ACCESS),
    Rule("stat", 4, _SOURCE_LINES, then=NO_ACCESS),
    Rule("lstat", 6, _SOURCE_LINES, then=NO_ACCESS),
    Rule("access", 21, _SOURCE_LINES, then=NO_ACCESS),
    Rule("readlink", 89, _SOURCE_LINES, then=NO_ACCESS),
    Rule("getcwd", 79, _SOURCE_LINES, then=NO_ACCESS),
    Rule("prctl", 157, "newer libcs name their mappings; nothing here may be undone", then=NOT_PERMITTED),
    Rule("sched_getaffinity", 204, "libc and Rust size their pools by it", then=NOT_PERMITTED),
)  # fmt: skip

"""Every system call that a locked worker may make, with what it may say and why it is needed.

Three answers, and the choice between them:

- *allow*: what running sessions, the frames to the host and the C library need. Found by tracing
  workers that ran every hostile cell of the tests and sessions in random order.
- *an error*: what CPython or libc try on the way to something harmless, and do without when refused:
  looking for a source line to show, or for a module.
- *kill*: everything else that exists today. No part of a worker makes such a call, so the caller is an
  intruder or a bug of ours; either way one attempt is all there is, and the host sees SIGSYS.

Numbers above `KNOWN_MAX` belong to a later kernel. They are answered with ENOSYS: a newer libc asks for
new calls and falls back, and none of them does anything here.

Numbers are those of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
"""

from __future__ import annotations

import errno
from typing import Final

from rlm_wasm.jail.lockdown.rule import (
    NEXT,
    NO_ACCESS,
    NOT_PERMITTED,
    NOT_THERE,
    Condition,
    Rule,
    has_bits,
    is_int,
    is_null,
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
# private, fixed, anonymous, no reserve, stack: no sharing, no huge or locked pages, no growth down.
_MAP_FLAGS: Final = _MAP_PRIVATE | 0x10 | 0x20 | 0x4000 | 0x2_0000
_REMAP_MAY_MOVE: Final = 0x1
# dontneed, free, hugepage, nohugepage, populate_read, populate_write
_ADVICE: Final = (4, 8, 14, 15, 22, 23)
# WAIT, WAKE, WAIT_BITSET, WAKE_BITSET, each private or not, on either clock: no requeue, no PI.
_FUTEX_OPERATIONS: Final = (0, 1, 9, 10)
_FUTEX_FLAGS: Final = 128 | 256
_PAGEMAP_SCAN: Final = 0xC060_6610
_FIONBIO: Final = 0x5421
# dupfd_cloexec, add_seals, get_seals: no owner, no signal, no lease, no lock, no notification.
_FCNTL: Final = (1030, 1033, 1034)
_EMPTY_PATH: Final = 0x1000
# dontwait, nosignal, cmsg_cloexec. Not MSG_OOB: out-of-band data on Unix sockets has been a way into kernels.
_SEND_FLAGS: Final = 0x40 | 0x4000
_RECEIVE_FLAGS: Final = 0x40 | 0x4000_0000
_ON_SOCKET: Final = is_int(0, SOCKET_FD)

_SENDING: Final = "frames to the host, over the one socket there is"
_RECEIVING: Final = "frames from the host, over the one socket there is"
_MEMORY_FILES: Final = (
    "a memory file that the host lent is filled, cut, sealed and read back: origins and images"
)
_LOOKING: Final = "CPython looks for a source line to show in a traceback, or for a module, and copes"
_ABORTING: Final = "abort(), after a panic: it ends by its last resort, which is no SIGSYS"

RULES: Final[tuple[Rule, ...]] = (
    # The kernel goes down this list; what sessions call most often comes first.
    # -- memory: private, and never executable --------------------------------------------------------
    Rule(
        "mmap", 9, "sessions, fibers' stacks, the allocator",
        when=(only_bits(2, _READ_WRITE), only_bits(3, _MAP_FLAGS), has_bits(3, _MAP_PRIVATE)),
    ),
    Rule("munmap", 11, "sessions end"),
    Rule("mprotect", 10, "a guest's memory grows; the allocator", when=(only_bits(2, _READ_WRITE),)),
    Rule(
        "madvise", 28, "huge pages for growth; pages that a prepared session will want; freed pages go back",
        when=(is_int(2, *_ADVICE),), otherwise=refuse(errno.EINVAL),
    ),
    Rule("mremap", 25, "realloc of large blocks", when=(only_bits(3, _REMAP_MAY_MOVE),)),
    Rule("brk", 12, "the allocator's heap"),
    # -- frames ---------------------------------------------------------------------------------------
    Rule("poll", 7, "waiting for frames, and for the next thing due"),
    Rule("ppoll", 271, "the same, as Python 3.15 spells it", when=(is_null(3),)),
    Rule("recvmsg", 47, f"{_RECEIVING}; large inputs come as sealed memory files",
         when=(_ON_SOCKET, only_bits(2, _RECEIVE_FLAGS, 32))),
    Rule("recvfrom", 45, _RECEIVING, when=(_ON_SOCKET, only_bits(3, _RECEIVE_FLAGS, 32), is_null(4))),
    Rule("sendto", 44, _SENDING, when=(_ON_SOCKET, only_bits(3, _SEND_FLAGS, 32), is_null(4))),
    # -- descriptors that are open already, and memory files ------------------------------------------
    Rule("pread64", 17, f"{_MEMORY_FILES}; the pagemap"),
    Rule("pwrite64", 18, _MEMORY_FILES),
    Rule("lseek", 8, _MEMORY_FILES),
    Rule(
        "newfstatat", 262, f"{_MEMORY_FILES} (fstat, as glibc spells it since 2.33); {_LOOKING}",
        when=(has_bits(3, _EMPTY_PATH),), otherwise=NO_ACCESS,
    ),
    Rule("fstat", 5, _MEMORY_FILES),
    Rule("ftruncate", 77, _MEMORY_FILES),
    Rule("fallocate", 285, "a part of the arena is freed", when=(is_int(1, 0x1 | 0x2),)),
    Rule("fcntl", 72, _MEMORY_FILES, when=(is_int(1, *_FCNTL),)),
    Rule("close", 3, _MEMORY_FILES),
    Rule(
        "ioctl", 16, "a snapshot asks which pages were written",
        when=(is_int(0, PAGEMAP_FD), is_int(1, _PAGEMAP_SCAN)), otherwise=NEXT,
    ),
    Rule("ioctl", 16, "Python's setblocking", when=(_ON_SOCKET, is_int(1, _FIONBIO))),
    Rule("write", 1, "last words, to /dev/null", when=(is_int(0, 1, 2),)),
    # -- the rest -------------------------------------------------------------------------------------
    Rule("getrandom", 318, "fresh entropy for sessions"),
    Rule(
        "futex", 202, "locks of Python and libc",
        when=(Condition(1, 0xFFFF_FFFF & ~_FUTEX_FLAGS, _FUTEX_OPERATIONS),), otherwise=NOT_THERE,
    ),
    Rule("clock_gettime", 228, "clocks that the vDSO does not answer: CPU time"),
    Rule("restart_syscall", 219, "the kernel resumes a wait that a stop interrupted"),
    Rule("rt_sigreturn", 15, "a trap of the guest is a signal, which wasmtime handles"),
    Rule("rt_sigaction", 13, f"SIGINT is ignored; {_ABORTING}"),
    Rule("rt_sigprocmask", 14, _ABORTING),
    Rule("gettid", 186, _ABORTING),
    Rule("getpid", 39, _ABORTING),
    Rule("tgkill", 234, _ABORTING, then=NOT_PERMITTED),
    Rule("openat", 257, _LOOKING, then=NO_ACCESS),
    Rule("getcwd", 79, _LOOKING, then=NO_ACCESS),
    Rule("readlink", 89, _LOOKING, then=NO_ACCESS),
    Rule("exit_group", 231, "the worker ends"),
)  # fmt: skip
